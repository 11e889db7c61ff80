#!/usr/bin/env bash
# Fuzzes each target for so many seconds (default 20) with libFuzzer, on the stable compiler: sancov's passes are LLVM's, and need no
# unstable flag. Ends with executions per target; a find fails, and is kept in fuzz/artifacts. With FUZZ_PROFILE=quick the
# targets are built in a fraction of the time, and run more slowly.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-20}
shift || true
targets=${*:-config generation_config safetensors index tokenizer chat_template saved_session doors capi}
export CARGO_TARGET_DIR=$PWD/fuzz/target
# With --target the flags keep away from build scripts and proc macros.
target=x86_64-unknown-linux-gnu
RUSTFLAGS="--cfg fuzzing -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4"
RUSTFLAGS+=" -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table"
RUSTFLAGS+=" -C llvm-args=-sanitizer-coverage-trace-compares -C codegen-units=1"
export RUSTFLAGS
profile=${FUZZ_PROFILE:-release}
cargo build --quiet --profile "$profile" --manifest-path fuzz/Cargo.toml --target "$target"

total=0
for name in $targets; do
  found=$(mktemp -d) # what is new goes here: the corpus in the repository stays small
  mkdir -p fuzz/artifacts
  log=$(mktemp)
  if ! "$CARGO_TARGET_DIR/$target/$profile/$name" "$found" "fuzz/corpus/$name" -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=1500 -max_len=32768 -len_control=50 -print_final_stats=1 -artifact_prefix="fuzz/artifacts/$name-" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    exit 1
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  printf '%-18s %10s executions, peak %s MB\n' "$name" "$runs" "$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")"
  total=$((total + runs))
  rm -rf "$found" "$log"
done
rm -rf /dev/shm/doge-fuzz-*
echo "fuzz: $total executions without a find"
