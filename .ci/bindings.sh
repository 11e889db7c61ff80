#!/usr/bin/env bash
# Shows that the committed src/ffi/bindings.rs is what bindgen makes of the headers in kernels/.
# Run it, or source it and call check_bindings.

check_bindings() (
  set -euo pipefail
  root=$(git rev-parse --show-toplevel)
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT

  # bindgen needs libclang; the wheel on PyPI is nothing but that library, without clang's own headers: gcc's serve.
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check libclang==18.1.1
  LIBCLANG_PATH=$("$work/venv/bin/python" -c 'import clang.native; print(list(clang.native.__path__)[0])')
  export LIBCLANG_PATH
  export BINDGEN_EXTRA_CLANG_ARGS="-isystem $(gcc -print-file-name=include)"

  # In a copy, so that a checkout is never changed by its own check.
  cd "$root"
  git ls-files -z --cached --others --exclude-standard -- . ':!tests/golden' ':!models' | xargs -0 cp --parents -t "$work"
  : >"$work/src/ffi/bindings.rs" # build.rs must write it, not find it
  (cd "$work" && CARGO_TARGET_DIR="$root/target/bindings" cargo check --quiet --lib --no-default-features --features regen-bindings)

  if ! diff -u "$root/src/ffi/bindings.rs" "$work/src/ffi/bindings.rs"; then
    echo "src/ffi/bindings.rs does not follow from the headers in kernels/: cargo check --features regen-bindings, and commit it" >&2
    exit 1
  fi
  echo "bindings: as committed"
)

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then check_bindings; fi
