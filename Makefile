# Every target sets up what it needs: a virtual environment in .venv with pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo open-sample test lint bench docs clean

help:            ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(READY): pyproject.toml requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "pacx needs Python 3.11 or newer; name one with: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements/constraints.txt --editable '.[train,dicom,export,serve,docs,dev]'
	@touch $(READY)

demo: $(READY)   ## the whole method on a simulated cohort; ends in runs/demo/report/report.html
	$(BIN)/pacx demo

open-sample: $(READY) ## the same on real open X-rays, ECGs and labs in ../shared/data
	$(BIN)/pacx run recipes/open-sample.yaml

test: $(READY)   ## the test suite
	$(BIN)/python -m pytest -n 2

lint: $(READY)   ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## ours beside the peers', over an hour on two cores; results and table in benchmarks/
	$(BIN)/python -m benchmarks

docs: $(READY)   ## the documentation, built strictly into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:           ## remove what make made (not runs/)
	rm -rf $(VENV) site dist build .pytest_cache .mypy_cache .ruff_cache
