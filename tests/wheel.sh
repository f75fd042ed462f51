#!/bin/sh
# What an installed wheel does in a folder with nothing of the project: trains, measures, generates, and checks a stranger's component.
# Arguments: the environment's folder of programs, a folder of component files.
set -eu

programs=$1 strangers=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
seq 1 4000 | sed 's/.*/line & of a small text/' >text.txt
"$programs/morphax" train tiny_lm data.path=text.txt steps=20 evaluation.every=20 --run run --json >/dev/null
"$programs/morphax" eval run --json >/dev/null
"$programs/morphax" generate run "line 1" --length 8
for file in "$strangers"/sound_*.py; do "$programs/morphax" check "$file"; done
echo "1 passed, 0 failed"
