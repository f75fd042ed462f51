#!/bin/sh
# tiny_lm from scratch in three environments: this Python, Python 3.13 with the current jax, Python 3.13 with stock Colab's versions.
set -eu
first=$1
second=$2
test -n "$second" || { echo "The lanes need Python 3.13: install it, or give PYTHON313=/its/path" >&2; exit 2; }

lane() { # name, python, constraints
    folder=.lanes/$1
    test -x "$folder/bin/python" || "$2" -m venv "$folder"
    test -f "$folder/installed" || { "$folder/bin/python" -m pip install --quiet --disable-pip-version-check $3 -e . && touch "$folder/installed"; }
    rm -rf "$folder/run"
    "$folder/bin/python" -m train tiny_lm steps=40 evaluation.every=20 --run "$folder/run" --json >"$folder/summary.json"
    "$folder/bin/python" - "$1" "$folder/summary.json" <<'PYTHON'
import json
import sys

import jax

loss = json.load(open(sys.argv[2]))["evaluation"]["loss"]["value"]
assert loss < 4.0, f"lane {sys.argv[1]}: the loss is {loss} after 40 steps, and below 4.0 is expected"
print(f"lane {sys.argv[1]}: Python {sys.version.split()[0]}, jax {jax.__version__}, loss {loss:.3f}")
PYTHON
}

lane default "$first" ""
lane current "$second" ""
lane colab "$second" "-c tests/lanes/colab.txt"
echo "3 passed, 0 failed"
