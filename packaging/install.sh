#!/usr/bin/env bash
# Builds the C library with cargo alone and installs it: packaging/install.sh PREFIX (default /usr/local). Libraries to lib,
# headers to include/doge_engine, doge_engine.pc to lib/pkgconfig, the CMake package to lib/cmake/doge_engine. `cargo cinstall`
# does the same but for the CMake package.
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=${1:-/usr/local}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
series=${version%.*}
# Until 1.0 each series is an ABI of its own, as in Cargo.
soname=libdoge_engine.so.$series
build=${CARGO_TARGET_DIR:-target}/release

cargo rustc --quiet --release --lib --no-default-features --features capi \
  --crate-type cdylib --crate-type staticlib -- -C "link-arg=-Wl,-soname,$soname"

install -d "$prefix"/{lib/pkgconfig,lib/cmake/doge_engine,include/doge_engine}
install -m 755 "$build/libdoge_engine.so" "$prefix/lib/libdoge_engine.so.$version"
ln -sf "libdoge_engine.so.$version" "$prefix/lib/$soname"
ln -sf "$soname" "$prefix/lib/libdoge_engine.so"
install -m 644 "$build/libdoge_engine.a" "$prefix/lib/"
install -m 644 include/doge_engine.h kernels/doge_kernels.h "$prefix/include/doge_engine/"
fill() {
  sed -e "s|@PREFIX@|$(cd "$prefix" && pwd)|" -e "s|@VERSION@|$version|" -e "s|@SERIES@|$series|" -e "s|@SOVERSION@|$series|" "$1"
}
fill packaging/doge_engine.pc.in >"$prefix/lib/pkgconfig/doge_engine.pc"
for name in doge_engine-config doge_engine-config-version; do
  fill "packaging/$name.cmake.in" >"$prefix/lib/cmake/doge_engine/$name.cmake"
done
