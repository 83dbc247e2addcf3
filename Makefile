# make demo: set up, then run the main job on real data.   make test: set up, then pass the tests.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# without bytecode, which Python writes for what it imports: compiling all of it takes as long as unpacking it
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

# bytecode is kept where a machine says otherwise: tests start many programs, which import torch
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-all bench setup lint test-cpp docs test-python clean

demo: $(VENV)/.demo
	$(BIN)/trajmill demo --out runs/demo

# linters and compiler side by side, for mypy uses one core
test: setup
	$(MAKE) --jobs 2 --output-sync --keep-going lint test-cpp docs
	$(MAKE) test-python

# runs every step, also when one fails, and says in the end which did; so does bench
test-all: setup
	$(BIN)/python tools/check.py all

bench: setup
	$(PIP) --no-build-isolation --editable ".[bench]"
	failed=; try() { echo "+ $$*"; $(BIN)/python "$$@" || failed="$$failed $$1"; }; \
	for name in sampler laws corpus reference replay products mixtures; do try benchmarks/bench_$$name.py; done; \
	try benchmarks/bench_training.py --device cpu --precision fp32 bf16 --contenders "plain loop" R0 R2 ours; \
	try benchmarks/bench_evaluation.py; \
	try benchmarks/bench_online.py; \
	try tools/readme.py; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

lint:
	$(BIN)/python tools/check.py lint

# ninja would look for make's job server
test-cpp:
	MAKEFLAGS= $(BIN)/python tools/check.py test-cpp

# a site that needs no network, in build/site
docs:
	$(BIN)/python tools/check.py docs

test-python:
	$(BIN)/python tools/check.py test-python

# the demonstration needs no tools of tests
setup: $(VENV)/.test
$(VENV)/.demo: EXTRAS := train
$(VENV)/.test: EXTRAS := train,test,docs

# torch first and pinned: an open range would fetch gigabytes of CUDA libraries on a machine without a GPU
$(VENV)/.demo $(VENV)/.test: pyproject.toml constraints.txt CMakeLists.txt $(shell find cpp -type f)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) scikit-build-core pybind11 cmake ninja
	$(PIP) --no-build-isolation --editable ".[$(EXTRAS)]"
	touch $(VENV)/.demo $@

clean:
	rm -rf build $(VENV) runs
