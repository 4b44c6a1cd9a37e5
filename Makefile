# Two commands set everything up on a fresh machine: `make demo` and `make test`.
# `make fuzz` needs clang besides: see fuzz/README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard native/*)
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

COMPILED = $(BIN)/python -c 'from ectorch.bitstream import _native' 2>/dev/null

CLANG ?= clang++
RUNS ?= 20000
SEED ?= 1
FUZZ := fuzz/build
FUZZER = -runs=$(RUNS) -seed=$(SEED) -timeout=2
LOGGED = > $(FUZZ)/$@.log 2>&1 || { tail -n 100 $(FUZZ)/$@.log; exit 1; }
SANITIZED := -O1 -g -D_GLIBCXX_ASSERTIONS -fsanitize=address,undefined -fno-sanitize-recover=undefined

.PHONY: demo reproduce-mnist reproduce-cifar10 quick-cifar10 test compiled lint docs check-cuda dist-check fuzz fuzz-native fuzz-reader check-native clean

demo: $(VENV)/.experiments
	$(BIN)/ectorch train lenet-300-100 --out runs/demo

# every run resumes, and none that has ended is repeated; hours: results/mnist/results.md has minutes a run
reproduce-mnist: $(VENV)/.experiments
	$(BIN)/python benchmarks/curve.py benchmarks/curves/mnist.toml --out results/mnist --page docs/results/mnist.md

# the same, and goes on from the runs whose logs are kept there: hours an architecture
reproduce-cifar10: $(VENV)/.experiments
	$(BIN)/python benchmarks/curve.py benchmarks/curves/cifar10.toml --out results/cifar10 --logs --jobs 1 --page docs/results/cifar10.md

quick-cifar10: $(VENV)/.experiments
	$(BIN)/python benchmarks/curve.py benchmarks/curves/cifar10.toml --out runs/quick-cifar10 --quick --jobs 1

test: compiled lint
	$(BIN)/pytest

# a package that was built before there was a compiler is built anew
compiled: $(VENV)/.dev
	@$(COMPILED) || $(PIP) --editable '.[dev]'
	@$(COMPILED) || { echo "make test: the coders are not compiled: it needs a C++ compiler and Python's headers (Debian: g++, python3-dev)" >&2; exit 1; }

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# a site that needs no server: open site/index.html
docs: $(VENV)/.dev docs/assets/floors.svg
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "docs: site/index.html"

docs/assets/floors.svg: $(VENV)/.dev pyproject.toml mkdocs_hooks/floors.py
	$(BIN)/python mkdocs_hooks/floors.py

# on a machine with a GPU, and a torch that has CUDA: what only a GPU shows, and what a step costs
PYTHON_CUDA ?= python3
check-cuda:
	PYTHONPATH=src $(PYTHON_CUDA) -m pytest -q -n 0 -p no:cacheprovider tests/constrain/kernels tests/experiments/test_device.py -k "cuda or gpu"
	PYTHONPATH=src $(PYTHON_CUDA) benchmarks/step.py --device cuda --samples 24

# what users install, where they may have nothing: every Python at hand, no torch, no compiler
dist-check: $(VENV)/.dev
	$(BIN)/python tests/packaging/check.py

fuzz: fuzz-native fuzz-reader check-native

fuzz-native: $(FUZZ)/native
	rm -rf $(FUZZ)/native.corpus
	cp -r fuzz/corpus/native $(FUZZ)/native.corpus
	$< $(FUZZER) -malloc_limit_mb=64 -max_len=1024 -artifact_prefix=$(FUZZ)/native- $(FUZZ)/native.corpus $(LOGGED)
	@echo "fuzz: $(RUNS) inputs, and no stream harms the compiled decoders"

fuzz-reader: $(VENV)/.fuzz
	rm -rf $(FUZZ)/reader.corpus
	mkdir -p $(FUZZ)
	cp -r fuzz/corpus/reader $(FUZZ)/reader.corpus
	cp tests/golden/*.ect $(FUZZ)/reader.corpus
	$(BIN)/python fuzz/reader.py $(FUZZER) -max_len=4096 -artifact_prefix=$(FUZZ)/reader- $(FUZZ)/reader.corpus $(LOGGED)
	@echo "fuzz: $(RUNS) inputs, and no file harms the reader"

check-native: $(addprefix $(FUZZ)/same_bytes-,O0 O3 clang-O3 sanitized) $(VENV)/.dev
	$(BIN)/python fuzz/same_bytes.py $(filter $(FUZZ)/%,$^)

$(FUZZ)/native $(FUZZ)/same_bytes-clang-O3 $(FUZZ)/same_bytes-sanitized: $(FUZZ)/.clang

$(FUZZ)/native: fuzz/native.cpp $(NATIVE)
	$(CLANG) -std=c++17 $(SANITIZED) -fsanitize=fuzzer $< -o $@

$(FUZZ)/same_bytes-sanitized: fuzz/same_bytes.cpp $(NATIVE)
	$(CLANG) -std=c++17 $(SANITIZED) $< -o $@

$(FUZZ)/same_bytes-clang-%: fuzz/same_bytes.cpp $(NATIVE)
	$(CLANG) -std=c++17 -$* $< -o $@

$(FUZZ)/same_bytes-%: fuzz/same_bytes.cpp $(NATIVE)
	mkdir -p $(FUZZ)
	$(CXX) -std=c++17 -$* $< -o $@

$(FUZZ)/.clang:
	@$(CLANG) --version >/dev/null || { echo "make fuzz: it needs clang with its sanitizers (Debian: clang), or CLANG=clang++-<version>" >&2; exit 1; }
	mkdir -p $(FUZZ)
	touch $@

# torch comes first and pinned: a later install then has no reason to fetch another build of it
$(VENV)/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "ectorch needs Python 3.10 or newer: make PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	touch $@

$(VENV)/.experiments: $(VENV)/.torch pyproject.toml $(NATIVE)
	$(PIP) --editable '.[experiments]'
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml $(NATIVE)
	$(PIP) --editable '.[dev]'
	touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	$(PIP) --only-binary atheris atheris || { echo "make fuzz: no atheris for $$($(BIN)/python --version): make PYTHON=python3.11 fuzz, say, in a fresh clone" >&2; exit 1; }
	touch $@

clean:
	rm -rf $(VENV) runs dist site $(FUZZ)
