#!/usr/bin/env bash
# The C interface from outside: the header as C11 and as C++17, the symbols of the shared library, a C program and a Python script
# that must give the ids of the command, by pkg-config, by CMake, static and shared. Run it after a release build of `doge`.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix
packaging/install.sh "$prefix"

for language in c:c11 c++:c++17; do
  printf '#include <doge_engine.h>\n' |
    cc -x "${language%%:*}" -std="${language#*:}" -Wall -Wextra -Wpedantic -Werror -I "$prefix/include/doge_engine" -fsyntax-only -
done

# A Rust library exports what is #[no_mangle] and nothing else.
nm -D --defined-only "$prefix/lib/libdoge_engine.so" | awk '{ print $3 }' | LC_ALL=C sort >"$work/symbols"
LC_ALL=C sort include/symbols.txt | diff - "$work/symbols"

export PKG_CONFIG_PATH=$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib
flags=(-std=c11 -O2 -Wall -Wextra -Wpedantic -Werror)
read -ra installed <<<"$(pkg-config --cflags --libs doge_engine)"
read -ra private <<<"$(pkg-config --cflags doge_engine) $prefix/lib/libdoge_engine.a -lpthread -ldl -lm -lgcc_s"
for example in generate kernel; do
  cc "${flags[@]}" "examples/capi/$example.c" -o "$work/$example" "${installed[@]}"
  cc "${flags[@]}" "examples/capi/$example.c" -o "$work/$example-static" "${private[@]}"
done
"$work/kernel"

cargo build --quiet --release
# The last space is the C program's.
text=$'ROMEO.\n'
expected=$(target/release/doge generate -p "$text" -n 40 --temp 0 --json -q | python3 -c 'import json, sys; print(*json.load(sys.stdin)["ids"])')
[[ $(wc -w <<<"$expected") -eq 40 ]]
for program in "$work/generate" "$work/generate-static" "python3 examples/capi/generate.py $prefix/lib/libdoge_engine.so"; do
  found=$($program -i -n 40 "$text" 2>/dev/null | sed 's/ $//')
  [[ $found == "$expected" ]] || { echo "$program gives other ids: $found" >&2; exit 1; }
  $program -n 40 -m models/doge-bard "$text" 2>/dev/null | grep '[a-z]' >/dev/null
done
# Stop strings cut the text where the command cuts it.
stopped=(-n 40 --stop ANTONIO "$text")
python3 examples/capi/generate.py "$prefix/lib/libdoge_engine.so" "${stopped[@]}" 2>/dev/null >"$work/found"
target/release/doge generate --temp 0 -q -n 40 --stop ANTONIO -p "$text" 2>/dev/null >"$work/expected"
grep -q 'Enter $' "$work/found" && diff <(sed '$a\' "$work/expected") <(sed '$a\' "$work/found")

command -v cmake >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends cmake; } >/dev/null
cmake -S examples/capi -B "$work/cmake" -DCMAKE_PREFIX_PATH="$prefix" >/dev/null
cmake --build "$work/cmake" >/dev/null
[[ $("$work/cmake/generate" -i -n 40 "$text" 2>/dev/null | sed 's/ $//') == "$expected" ]]
echo "the C interface gives the command's ids: C shared and static, Python, CMake"
