#!/bin/sh
# All that `make test` leaves out, in sixteen slices: `sh tests/slow.sh` runs every one, `sh tests/slow.sh 3/16` the third.
# With SMALL_DISK=1 the environments of each target, gigabytes, are removed when it is done.
set -eu

run() {
    for target in "$@"; do
        make $target # one or two words
        [ -z "${SMALL_DISK:-}" ] || rm -rf .lanes
    done
}

slice() {
    case $1 in
    1) run parity lanes tpu-colab ;;
    2) run planted ;;
    3 | 4 | 5 | 6 | 7 | 8 | 9) run "slow-tests PART=$(($1 - 2))/7" ;;
    10 | 11 | 12 | 13) run "tpu PART=$(($1 - 9))/4" ;;
    14) run notebooks-colab notebooks-current ;;
    15) run test-current gate ;;
    16) run docs wheel delivered ;;
    *)
        echo "SLICE is k/16 with k from 1 to 16, such as SLICE=3/16; without it all of them run" >&2
        exit 2
        ;;
    esac
}

case ${1-} in
"") for part in $(seq 16); do slice "$part"; done ;;
?/16 | ??/16) slice "${1%/16}" ;;
*) slice wrong ;;
esac
