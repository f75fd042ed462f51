#!/bin/sh
# All that `make test` leaves out, in eight slices: `sh tests/slow.sh` runs every one, `sh tests/slow.sh 3/8` the third.
set -eu

slice() {
    case $1 in
    1) make parity lanes tpu-colab planted ;;
    2) make slow-tests PART=1/4 ;;
    3) make slow-tests PART=2/4 ;;
    4) make slow-tests PART=3/4 ;;
    5) make slow-tests PART=4/4 ;;
    6) make docs && make tpu PART=1/2 ;;
    7) make notebooks && make tpu PART=2/2 ;;
    8) make test-current ;;
    *)
        echo "SLICE is k/8 with k from 1 to 8, such as SLICE=3/8; without it all of them run" >&2
        exit 2
        ;;
    esac
}

case ${1-} in
"") for part in 1 2 3 4 5 6 7 8; do slice $part; done ;;
?/8) slice "${1%/8}" ;;
*) slice wrong ;;
esac
