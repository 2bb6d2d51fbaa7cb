#!/bin/sh
# Checks the model of the shm protocol exhaustively (Debian: apt install spin), and
# that it finds what it must find when a step is left out.
#
#   tests/model/run.sh
set -eu

root=$(cd "$(dirname "$0")" && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
cd "$build"

# check FLAGS...: prints spin's verdict; the number of errors it found.
check() {
    rm -f pan* ./*.trail
    spin -a "$@" "$root/shm.pml"
    ${CC:-gcc} -O2 -w -DSAFETY -DCOLLAPSE -DMEMLIM=3000 -o pan pan.c
    ./pan -m1000000 -n >out
    sed -n 's/.*errors: \([0-9]*\).*/\1/p' out
}

passed=0 failed=0
expect() { # GOOD|BAD FLAGS...
    want=$1
    shift
    errors=$(check "$@") || { cat "$build"/* 2>/dev/null | head -5; exit 1; }
    states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' out)
    complete=$(grep -c 'max search depth too small\|out of memory' out || true)
    if { [ "$want" = GOOD ] && [ "$errors" = 0 ] && [ "$complete" = 0 ]; } ||
        { [ "$want" = BAD ] && [ "$errors" -gt 0 ]; }; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        cat out
    fi
    echo "shm.pml $*: $errors errors in $states states, expected: $want"
}

expect GOOD -DMESSAGES=4 -DSLOTS=2 -DCHUNKS=3
expect GOOD -DMESSAGES=4 -DSLOTS=1 -DCHUNKS=2
expect GOOD -DMESSAGES=3 -DSLOTS=2 -DCHUNKS=2 -DTX_DIES
expect GOOD -DMESSAGES=3 -DSLOTS=2 -DCHUNKS=2 -DRX_DIES
expect BAD -DMESSAGES=3 -DSLOTS=2 -DCHUNKS=2 -DNO_FENCE
expect BAD -DMESSAGES=3 -DSLOTS=2 -DCHUNKS=2 -DTAKE_LATE
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
