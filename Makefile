# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard native/*)
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test lint clean

demo: $(VENV)/.experiments
	$(BIN)/ectorch train recipes/lenet-300-100/recipe.toml --out runs/demo

test: $(VENV)/.dev lint
	$(BIN)/pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

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

clean:
	rm -rf $(VENV) runs dist
