#!/usr/bin/env bash
# Everything there is to run on a machine with an NVIDIA GPU, from binaries built elsewhere: it needs the driver, and neither
# Rust nor nvcc.
#
#   1. where nvcc is (see .ci/cuda.sh):  .ci/gpu.sh pack FOLDER     builds, and copies what is needed
#   2. on the machine with the GPU:      FOLDER/gpu.sh run          tests, compute-sanitizer if it is there, benches
#
# `run` writes FOLDER/results/cuda-<gpu>-<date>.json; it belongs into benches/results.
set -euo pipefail

pack() {
  local to=$1 root
  root=$(git rev-parse --show-toplevel)
  cd "$root"
  : "${NVCC:?set NVCC to the nvcc to build with (.ci/cuda.sh installs one into target/cuda/venv)}"
  export DOGE_CUDA=require CARGO_TARGET_DIR=$root/target/cuda
  mkdir -p "$to"
  cargo build --release
  cp target/cuda/release/doge "$to/"
  cp -r tests/golden "$to/"
  cp models/doge-bard/heldout.txt "$to/"
  cp "$root/.ci/gpu.sh" "$to/"
  echo "packed: $(du -sh "$to" | cut -f1) in $to"
}

run() {
  cd "$(dirname "$0")"
  mkdir -p results
  # Containers often have the driver's library where the loader does not look.
  for folder in /usr/local/nvidia/lib64 /usr/lib/x86_64-linux-gnu /usr/lib64; do
    if [[ -e $folder/libcuda.so.1 ]]; then export LD_LIBRARY_PATH=$folder:${LD_LIBRARY_PATH:-}; fi
  done
  local gpu date out
  gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr -cs 'A-Za-z0-9\n' '-' | sed 's/-$//')
  date=$(date -u +%Y-%m-%d)
  out=results/cuda-$gpu-$date.json

  echo "== the golden cases"
  # The two of a sliding window are refused by name; everything else must pass.
  ./doge verify golden --device cuda | tee results/golden.txt || true
  if grep '^FAIL' results/golden.txt | grep -v 'sliding_window does not run on the GPU'; then echo "golden cases failed" >&2; exit 1; fi
  for dtype in bf16 f16 int8 int4; do
    ./doge verify golden --device cuda --dtype "$dtype" >"results/golden-$dtype.txt" || true
    if grep '^FAIL' "results/golden-$dtype.txt" | grep -v 'sliding_window does not run'; then exit 1; fi
  done

  echo "== the same text as on the CPU"
  for prompt in "ROMEO." "KING HENRY." "What"; do
    diff <(./doge generate -p "$prompt" -n 200 --temp 0 -q --device cpu) <(./doge generate -p "$prompt" -n 200 --temp 0 -q --device cuda)
  done

  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
      echo "== compute-sanitizer $tool"
      compute-sanitizer --tool "$tool" --error-exitcode 9 ./doge generate -p "ROMEO." -n 20 --temp 0 -q --device cuda
      compute-sanitizer --tool "$tool" --error-exitcode 9 ./doge verify golden/moe_window --device cuda
    done
  else
    echo "== compute-sanitizer is not here: memcheck, racecheck and initcheck are left out" >&2
  fi

  echo "== benches"
  {
    printf '{"gpu": "%s", "driver": "%s", "rows": [' "$gpu" "$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)"
    local comma=
    for preset in doge-20m doge-60m doge-160m doge-320m; do
      for dtype in bf16 int8; do
        for activations in f32 bf16; do
          printf '%s' "$comma"
          ./doge bench --device cuda --preset "$preset" --dtype "$dtype" --activations "$activations" -p 512,2048 -n 128 -o json
          comma=,
        done
      done
    done
    printf ']}\n'
  } >"$out"
  echo "written: $out"
}

case ${1:-} in
  pack) pack "${2:?the folder to pack into}" ;;
  run) run ;;
  *) sed -n '2,9p' "$0" >&2; exit 2 ;;
esac
