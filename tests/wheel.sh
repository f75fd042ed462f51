#!/bin/sh
# What an installed wheel does in a folder with nothing of the project: trains, measures, generates, and checks strangers' components, sound
# and broken.  Arguments: the environment's folder of programs, a folder of sound components, a folder of broken ones with their laws.
set -eu

programs=$1 sound=$2 broken=$3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
seq 1 4000 | sed 's/.*/line & of a small text/' >text.txt
"$programs/morphax" train tiny_lm data.path=text.txt steps=20 evaluation.every=20 --run run --json >/dev/null
"$programs/morphax" eval run --json >/dev/null
"$programs/morphax" generate run "line 1" --tokens 8
for file in "$sound"/sound_*.py; do "$programs/morphax" check "$file"; done
for law in "$broken"/*.law; do
    code=0
    "$programs/morphax" check "${law%.law}.py" --law "$(cat "$law")" --json >found.json || code=$?
    if [ "$code" != 1 ] || ! grep -q '"broken"' found.json; then
        echo "${law%.law}.py: '$(cat "$law")' finds nothing (exit code $code)" >&2
        exit 1
    fi
    echo "$(basename "${law%.law}"): broken, by '$(cat "$law")'"
done
echo "1 passed, 0 failed"
