#!/usr/bin/env bash
# The scalar kernels on a processor that is not an x86: compiled for AArch64, run under an emulator, and held bit for bit
# against the same operations here. Run it, or source it and call check_foreign.

check_foreign() (
  set -euo pipefail
  cd "$(git rev-parse --show-toplevel)"
  if ! command -v aarch64-linux-gnu-g++ >/dev/null || ! command -v qemu-aarch64 >/dev/null; then
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user >/dev/null
  fi
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT

  # build <prefix of the tools> <output> <flag>, with build.rs's flags. AArch64 always has a fused multiply-add, which the
  # scalar lanes then use; here it takes a flag.
  build() {
    "$1g++" "$3" -std=c++17 -O3 -fno-exceptions -fno-rtti -ffp-contract=off -fno-math-errno -c kernels/cpu/isa_scalar.cpp -o "$2.o"
    "$1gcc" -std=c11 -Wall -Wextra -Werror -O1 -static tests/foreign/scalar.c "$2.o" -lm -o "$2"
  }
  build "" "$work/here" -mfma
  build aarch64-linux-gnu- "$work/foreign" -march=armv8-a
  "$work/here" >"$work/here.txt"
  qemu-aarch64 "$work/foreign" >"$work/foreign.txt"
  if ! cmp "$work/here.txt" "$work/foreign.txt"; then
    diff "$work/here.txt" "$work/foreign.txt" | cut -c1-160 | head -n 8 >&2
    echo "check_foreign: the scalar kernels give other bits on AArch64" >&2
    exit 1
  fi
  echo "foreign: $(wc -l <"$work/here.txt") results, bit for bit the same on x86-64 and AArch64"
)

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then check_foreign; fi
