#!/usr/bin/env bash
# The kernel matrix and the property tests with the kernels built under AddressSanitizer and UndefinedBehaviorSanitizer.
# Run it, or source it and call check_sanitized.

check_sanitized() (
  set -euo pipefail
  cd "$(git rev-parse --show-toplevel)"
  target=x86_64-unknown-linux-gnu
  export DOGE_SANITIZE=address,undefined # read by build.rs
  export CARGO_TARGET_DIR=target/sanitize
  # rustc links without the compiler driver's default libraries, so its -fsanitize would add no runtime: name the libraries.
  # With --target the flags keep away from build scripts and proc macros.
  export RUSTFLAGS="-C link-arg=-lasan -C link-arg=-lubsan"
  # ASan's runtime has to be the first library of the process, which a Rust link cannot arrange.
  CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="env LD_PRELOAD=$(gcc -print-file-name=libasan.so)"
  export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER
  export UBSAN_OPTIONS=print_stacktrace=1

  cargo test --quiet --target "$target" --no-default-features --test kernel_matrix --test kernel_props --no-run
  # A run without the instrumentation would pass just as well: look for it.
  for archive in "$CARGO_TARGET_DIR/$target"/debug/build/doge-engine-*/out/libdoge_*.a; do
    symbols=$(nm "$archive")
    if [[ $symbols != *__asan_report_load* || $symbols != *__ubsan_handle* ]]; then
      echo "check_sanitized: $archive is not instrumented" >&2
      exit 1
    fi
  done
  cargo test --quiet --target "$target" --no-default-features --test kernel_matrix --test kernel_props

  # The CUDA kernels on the emulator, which the tests build with the same sanitizers. A driver's allocations outlive the process.
  export ASAN_OPTIONS=detect_leaks=0
  cuda=(cargo test --quiet --target "$target" --no-default-features --features cuda)
  "${cuda[@]}" --test cuda_kernels
  "${cuda[@]}" --test cuda -- random_models sliding_windows prompts_on_tensor_cores
)

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then check_sanitized; fi
