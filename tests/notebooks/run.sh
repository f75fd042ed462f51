#!/bin/sh
# Every notebook, shortened, in two of the lanes' environments: Python 3.13 with stock Colab's versions, and with the current jax.
set -eu
python=$1
test -n "$python" || { echo "The notebooks need Python 3.13: install it, or give PYTHON313=/its/path" >&2; exit 2; }

notebooks() { # name, constraints
    folder=.lanes/$1
    test -x "$folder/bin/python" || "$python" -m venv "$folder"
    test -f "$folder/notebooks" || {
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check $2 -e '.[notebooks]'
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-data.txt
        touch "$folder/notebooks"
    }
    echo "notebooks in lane $1: $("$folder/bin/python" -c 'import jax, sys; print("Python", sys.version.split()[0], "jax", jax.__version__)')"
    "$folder/bin/python" -m pytest tests/notebooks -n 2 --dist worksteal --durations 6
}

notebooks colab "-c tests/lanes/colab.txt"
notebooks current ""
