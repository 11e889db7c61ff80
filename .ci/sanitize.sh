#!/usr/bin/env bash
# The library, the kernels and the CUDA kernels on their emulator under AddressSanitizer and LeakSanitizer, what is C++ of them
# under UndefinedBehaviorSanitizer too; sessions on shared threads under ThreadSanitizer.
# Run it, or source it and call check_memory and check_races.

# The stable compiler ships the runtimes; only the flag is called unstable. With --target it keeps away from build scripts and
# proc macros. gcc's instrumented objects know the same runtime by the same names.
TARGET=x86_64-unknown-linux-gnu

# A run without the instrumentation would pass just as well: look for symbols in every kernel archive.
look_for() {
  local archive symbols symbol
  for archive in "$CARGO_TARGET_DIR/$TARGET"/debug/build/doge-engine-*/out/libdoge_*.a; do
    symbols=$(nm "$archive")
    for symbol in "$@"; do
      [[ $symbols == *$symbol* ]] || { echo "sanitize: $archive does not call $symbol" >&2; exit 1; }
    done
  done
}

check_memory() (
  set -euo pipefail
  cd "$(git rev-parse --show-toplevel)"
  export DOGE_SANITIZE=address,undefined # read by build.rs, by the tests that build the emulator, and by tests/kernel_props.rs
  export CARGO_PROFILE_DEV_DEBUG=line-tables-only # a finding says where
  export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=target/sanitize
  # The emulator's library is loaded later, and finds the runtime in the test program.
  export RUSTFLAGS="--cfg sanitized -Zsanitizer=address -Zshare-generics=n -C link-arg=-Wl,--export-dynamic-symbol=__asan_*,--export-dynamic-symbol=__ubsan_*"
  export UBSAN_OPTIONS=print_stacktrace=1
  tests=(cargo test --quiet --config .ci/sanitize.toml --target "$TARGET" --no-default-features --features capi,cuda)
  here=(--test kernel_matrix --test kernel_props --test session --test saved_sessions --test laws --test replay --test capi)

  "${tests[@]}" "${here[@]}" --test cuda_kernels --test cuda --no-run
  look_for __asan_load __ubsan_handle
  # The one is about time, the other makes the calls of `session` once more, for a minute.
  "${tests[@]}" "${here[@]}" -- --skip a_long_sequence --skip the_bits_do_not_depend
  # A driver's allocations outlive the process.
  export ASAN_OPTIONS=detect_leaks=0
  "${tests[@]}" --test cuda_kernels
  "${tests[@]}" --test cuda -- random_models sliding_windows prompts_on_tensor_cores a_forked a_session_that_grows
)

check_races() (
  set -euo pipefail
  cd "$(git rev-parse --show-toplevel)"
  export DOGE_SANITIZE=thread RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=target/sanitize-threads CARGO_PROFILE_DEV_DEBUG=line-tables-only
  # The standard library is not instrumented, which tests/races allows for.
  export RUSTFLAGS="-Zsanitizer=thread -C unsafe-allow-abi-mismatch=sanitizer"
  cargo build --quiet --target "$TARGET" --manifest-path tests/races/Cargo.toml
  look_for __tsan_write
  "$CARGO_TARGET_DIR/$TARGET/debug/races"
)

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -euo pipefail
  check_memory
  check_races
fi
