#!/bin/sh
# All that `make test` leaves out, in sixteen slices: `sh tests/slow.sh` runs every one, `sh tests/slow.sh 3/16` the third.
set -eu

slice() {
    case $1 in
    1) make parity lanes tpu-colab ;;
    2) make planted ;;
    3 | 4 | 5 | 6 | 7 | 8 | 9) make slow-tests PART=$(($1 - 2))/7 ;;
    10 | 11 | 12 | 13) make tpu PART=$(($1 - 9))/4 ;;
    14) make notebooks ;;
    15) make test-current ;;
    16) make docs wheel savedmodel ;;
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
