#!/usr/bin/env bash
# Everything there is to run on a machine with an NVIDIA GPU, from binaries built elsewhere. It needs the driver (580 or
# later), bash, and a glibc of 2.34 or later; neither Rust nor nvcc nor a network.
#
#   1. where the repository is:      .ci/gpu.sh pack FOLDER     builds (nvcc from PyPI, as .ci/cuda.sh), copies what is needed
#   2. on the machine with the GPU:  FOLDER/gpu.sh run          tests, compute-sanitizer, benches
#
# `run` writes FOLDER/results/cuda-<gpu>-<date>.json; it belongs into benches/results. What failed is told at the end, and
# by the exit status.
set -euo pipefail

pack() {
  local to root binary
  mkdir -p "$1"
  to=$(realpath "$1")
  root=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
  cd "$root"
  # shellcheck source=.ci/cuda.sh
  source .ci/cuda.sh
  use_nvcc
  cargo build --release
  cp target/release/doge "$to/"
  for test in cuda cuda_kernels; do
    binary=$(cargo test --release --no-run --test "$test" 2>&1 | sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
    cp "$binary" "$to/test_$test"
  done
  mkdir -p "$to/tests"
  rm -rf "$to/tests/golden" "$to/compute-sanitizer"
  cp -r tests/golden "$to/tests/"
  "$VENV/bin/pip" install --quiet --disable-pip-version-check --no-deps 'nvidia-cuda-sanitizer-api>=13.0,<13.1'
  mkdir "$to/compute-sanitizer" # the tool looks for its libraries beside itself
  (cd "$VENV"/lib/python3*/site-packages/nvidia/cu13 &&
    cp bin/compute-sanitizer lib/libsanitizer-* lib/libInterceptor* lib/libTreeLauncher* "$to/compute-sanitizer/")
  cp .ci/gpu.sh "$to/"
  echo "packed: $(du -sh "$to" | cut -f1) in $to"
}

failed=()

# Runs a step whose failure does not keep the others from running; its output goes to results/, too.
step() {
  local name=$1
  shift
  echo "== $name ($SECONDS s)"
  timeout "${STEP_SECONDS:-900}" "$@" 2>&1 | tee "results/$name.txt" || failed+=("$name")
}

same_text() {
  local prompt
  for prompt in "ROMEO." "KING HENRY." "What"; do
    diff <(./doge generate -p "$prompt" -n 200 --temp 0 -q --device cpu) \
      <(./doge generate -p "$prompt" -n 200 --temp 0 -q --device cuda) || return 1
  done
  echo "the same tokens"
}

run() {
  cd "$(dirname "$0")"
  mkdir -p results
  export DOGE_TEST_GPU=1
  # Containers often have the driver's library where the loader does not look.
  for folder in /usr/local/nvidia/lib64 /usr/lib/x86_64-linux-gnu /usr/lib64; do
    if [[ -e $folder/libcuda.so.1 ]]; then export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}; fi
  done
  ./doge generate -p "ROMEO." -n 8 --temp 0 -q --device cuda >/dev/null # without a GPU nothing below means anything
  local gpu=GPU driver=unknown out
  if command -v nvidia-smi >/dev/null; then
    gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr -cs 'A-Za-z0-9\n' '-' | sed 's/-$//')
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
  fi
  out=results/cuda-$gpu-$(date -u +%Y-%m-%d).json

  for dtype in stored f32 bf16 f16 int8 int4; do
    local asked=(--dtype "$dtype")
    if [[ $dtype == stored ]]; then asked=(); fi
    step "golden-$dtype" ./doge verify tests/golden --device cuda "${asked[@]}"
  done
  step kernels ./test_cuda_kernels --test-threads 1
  step engine ./test_cuda --test-threads 1
  export -f same_text
  step same-text bash -c same_text

  echo "== benches ($SECONDS s)"
  local bench=(./doge bench --device cuda --activations f32,bf16 -r 3 -o json)
  {
    printf '{"gpu": "%s", "driver": "%s", "rows": ' "$gpu" "$driver" &&
      "${bench[@]}" --dtype bf16,int8 --preset 20m,60m,160m,320m,20m-moe,480m-moe -p 512,2048 -n 128 &&
      printf ', "long": ' &&
      "${bench[@]}" --dtype bf16 --preset 320m -p 16384 -n 128 -d 0,2048 &&
      printf '}\n'
  } >"$out" || failed+=(benches)
  echo "written: $out"

  local tool sanitizer=compute-sanitizer/compute-sanitizer
  if [[ ! -x $sanitizer ]]; then sanitizer=compute-sanitizer; fi # the machine's own
  for tool in memcheck racecheck initcheck synccheck; do
    local check=("$sanitizer" --tool "$tool" --error-exitcode 9)
    # A kernel is looked for in one image after the other, and where it is not the driver says so.
    if [[ $tool == memcheck ]]; then check+=(--report-api-errors no); fi
    step "$tool-kernels" "${check[@]}" ./test_cuda_kernels --test-threads 1
    step "$tool-generate" "${check[@]}" ./doge generate -p "ROMEO." -n 20 --temp 0 -q --device cuda
    step "$tool-verify" "${check[@]}" ./doge verify tests/golden/moe_window --device cuda
  done

  if ((${#failed[@]})); then
    echo "failed: ${failed[*]} (see results/)" >&2
    exit 1
  fi
}

case ${1:-} in
  pack) pack "${2:?the folder to pack into}" ;;
  run) run ;;
  *) sed -n '2,9p' "$0" >&2; exit 2 ;;
esac
