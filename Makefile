# Everything here works on a fresh machine that has Python 3.11 or newer and make: the targets set up .venv themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
TORCH := torch==2.13.0
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help quickstart test check unit fast proofs bench format clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(VENV)/.with-quickstart  ## fine-tune a real model on real data, offline, in a few minutes; anew: make quickstart ARGS=--fresh
	$(BIN)/flagai quickstart $(ARGS)

test: check unit  ## all gates, then all tests

check: $(VENV)/.with-dev  ## the gates: format, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

unit: $(VENV)/.with-dev  ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

fast: $(VENV)/.with-dev  ## the tests that take a few seconds at most
	$(BIN)/python -m pytest -m "not slow and not proof" $(ARGS)

proofs: $(VENV)/.with-dev  ## what takes too long for every change: kills, all pairs of layouts, two machines
	$(BIN)/python -m pytest -m proof $(ARGS)

bench: $(VENV)/.with-bench  ## measure start-up; the longer benchmarks are listed in benchmarks/
	$(BIN)/python benchmarks/startup.py $(ARGS)

format: $(VENV)/.with-dev  ## format the code and sort its imports
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

clean:  ## remove what the targets above made, .venv included; runs stay
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .import_linter_cache
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "flagai needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1`. Try: make PYTHON=python3.12 ..." >&2; \
	  exit 2; }
	$(PYTHON) -m venv $(VENV)

# One stamp a set of extras. torch comes first and by its exact version, so that no later step exchanges it.
$(VENV)/.with-%: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) $(TORCH)
	$(PIP) -e ".[$*]"
	@touch $@
