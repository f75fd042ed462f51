#!/bin/sh
# tiny_lm from scratch and decoding of one's own layers in three environments: the project's own, Python 3.13 with the current jax, Python 3.13 with stock Colab's versions.
set -eu

lane() { # name, its environment
    folder=.lanes/$1
    mkdir -p "$folder"
    rm -rf "$folder/run"
    "$2/bin/python" -m train tiny_lm steps=40 evaluation.every=20 --run "$folder/run" --json >"$folder/summary.json"
    "$2/bin/python" - "$1" "$folder/summary.json" <<'PYTHON'
import json
import sys

import jax

loss = json.load(open(sys.argv[2]))["evaluation"]["loss"]["value"]
assert loss < 4.0, f"lane {sys.argv[1]}: the loss is {loss} after 40 steps, and below 4.0 is expected"
print(f"lane {sys.argv[1]}: Python {sys.version.split()[0]}, jax {jax.__version__}, loss {loss:.3f}")
PYTHON
    "$2/bin/python" -m tests.lanes.own_layers
}

lane default .venv
lane current .lanes/current
lane colab .lanes/colab
echo "3 passed, 0 failed"
