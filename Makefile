# make demo: set up, then run the main job on real data.   make test: set up, then pass the tests.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all bench setup lint test-cpp test-python clean

demo: setup
	$(BIN)/trajmill demo --out runs/demo

test: setup lint test-cpp test-python

test-all: setup lint test-cpp
	$(BIN)/python tools/check.py sanitize
	$(BIN)/python tools/check.py wheel
	$(BIN)/python tools/check.py neon
	$(BIN)/python -m pytest -q -m "slow or not slow"

# runs every script, also when one fails, and says in the end which did
bench: setup
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[bench]"
	failed=; try() { echo "+ $$*"; $(BIN)/python "$$@" || failed="$$failed $$1"; }; \
	for name in sampler corpus reference replay; do try benchmarks/bench_$$name.py; done; \
	try benchmarks/bench_training.py --device cpu --precision fp32 bf16 --contenders "plain loop" R0 R2 ours; \
	try benchmarks/bench_evaluation.py; \
	try tools/readme.py; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

lint:
	$(BIN)/python tools/check.py lint

test-cpp:
	$(BIN)/python tools/check.py test-cpp

test-python:
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

setup: $(STAMP)

# torch first and pinned: an open range would fetch gigabytes of CUDA libraries on a machine without a GPU
$(STAMP): pyproject.toml CMakeLists.txt $(shell find cpp -type f)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet "scikit-build-core>=0.11" "pybind11>=3.0" cmake ninja
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[train,test]"
	touch $(STAMP)

clean:
	rm -rf build $(VENV) runs
