#!/bin/sh
# Builds every tests/c/test_*.c against all that lies below Python, and runs it:
# with ASan and UBSan, and with TSan where its first line is "/* tsan */".
#
#   tests/c/run.sh [NAME...]     NAME: "volume" for test_volume.c; all if none is given
#
# CC (gcc) and SANITIZE (for all tests: address,undefined; or thread) may be set.
# PODIPC_SEED repeats the random numbers of an earlier run, PODIPC_SOAK_SECONDS (3)
# is for how long processes are killed at random.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
# TSan does not know fences. Where podipc has one, only the sleeper's bell hangs on
# it (bell.h), never whether data may be read; gcc warns all the same.
quiet=-Wno-tsan
! "${CC:-gcc}" --version | grep -q clang || quiet=
flags="-std=gnu11 -D_GNU_SOURCE -g -O1 -pthread -fno-omit-frame-pointer -fno-sanitize-recover=all
    -Wall -Wextra -Wconversion -Wshadow -Werror $quiet -I$root/csrc/include -I$root/csrc"

[ $# -gt 0 ] || set -- $(cd "$root/tests/c" && ls test_*.c | sed 's/^test_//; s/\.c$//')

# run SANITIZERS NAME...: what all tests share is built once.
run() {
    compile="${CC:-gcc} $flags -fsanitize=$1"
    objects="$build/$1"
    shift
    mkdir "$objects"
    export compile objects
    find "$root/csrc/core" "$root/csrc/platform" "$root/csrc/channel" -name '*.c' -print0 |
        xargs -0 -n 1 -P "$(nproc)" sh -c '$compile -c "$0" -o "$objects/$(basename "$0" .c).o"'
    for name in "$@"; do
        $compile "$root/tests/c/test_$name.c" "$objects"/*.o -o "$build/test_$name"
        echo "== $name (${objects#"$build/"})"
        "$build/test_$name" || failed="$failed $name"
    done
}

failed=
if [ -n "${SANITIZE:-}" ]; then
    run "$SANITIZE" "$@"
else
    run address,undefined "$@"
    threaded=
    for name in "$@"; do
        ! head -n 1 "$root/tests/c/test_$name.c" | grep -q '^/\* tsan \*/' || threaded="$threaded $name"
    done
    [ -z "$threaded" ] || run thread $threaded
fi
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
