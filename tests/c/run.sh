#!/bin/sh
# Builds every tests/c/test_*.c against the core with ASan and UBSan, and runs it.
#
#   tests/c/run.sh [NAME...]     NAME: "volume" for test_volume.c; all if none is given
#
# CC (gcc) and SANITIZE (address,undefined; or thread) may be set.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
sanitize=${SANITIZE:-address,undefined}
compile="${CC:-gcc} -std=gnu11 -D_GNU_SOURCE -g -O1 -pthread -fno-omit-frame-pointer
    -fsanitize=$sanitize -fno-sanitize-recover=all
    -Wall -Wextra -Wconversion -Wshadow -Werror -I$root/csrc/include -I$root/csrc"
export build compile

# A test reaches whatever lies below Python; all of it is built once.
find "$root/csrc/core" "$root/csrc/platform" "$root/csrc/channel" -name '*.c' -print0 |
    xargs -0 -n 1 -P "$(nproc)" sh -c '$compile -c "$0" -o "$build/$(basename "$0" .c).o"'

[ $# -gt 0 ] || set -- $(cd "$root/tests/c" && ls test_*.c | sed 's/^test_//; s/\.c$//')
failed=
for name in "$@"; do
    $compile "$root/tests/c/test_$name.c" "$build"/*.o -o "$build/test_$name"
    echo "== $name"
    "$build/test_$name" || failed="$failed $name"
done
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
