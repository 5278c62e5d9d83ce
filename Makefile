# Two commands matter: `make sweep` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= runs/digits
BENCH ?= *

.DEFAULT_GOAL := help
.PHONY: help setup sweep view test soak check bench clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Make .venv and install the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("towersweep needs Python 3.11 or newer; set PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

sweep: $(STAMP)  ## Run the default sweep; writes runs/digits/ (OUT=... for elsewhere)
	$(BIN)/towersweep launch digits --out $(OUT)

view: $(STAMP)  ## Open the study of OUT in a browser
	$(BIN)/towersweep view $(OUT)

test: $(STAMP)  ## Run the whole test suite
	$(BIN)/python -m pytest

soak: $(STAMP)  ## Run all tests of failures, the long ones too (up to 30 minutes)
	$(BIN)/python -m pytest tests/faults -m "soak or not soak" --timeout 1800

check: $(STAMP)  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## Run the benchmarks (half an hour; BENCH=overhead for one)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@for script in benchmarks/$(BENCH).py; do $(BIN)/python $$script || exit 1; done

clean:  ## Remove caches (not .venv, not runs/)
	rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
