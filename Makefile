# The same commands as `emotion`, for people who type make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
RECIPE ?= quick
DATA   ?=
FOLDS  ?= 5
PYTEST ?=
ARGS   ?=
PORT   ?= 5000
SPACE  ?= loss optimizer
TRIALS ?= 20
REMOTE ?=
BIN    := .venv/bin
READY  := .venv/.ready
UV     ?= $(shell command -v uv)
# both show what they download; UV= on the command line chooses pip
ifneq ($(UV),)
INSTALL = $(UV) pip install --python $(BIN)/python
WATCHED =
else
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check
# pip unpacks for minutes without a line, so the size of .venv is printed meanwhile
WATCHED = & pip=$$!; seconds=0; while kill -0 $$pip 2> /dev/null; do \
	  sleep 1; (( ++seconds % 20 )) || echo "  ... $$(du -sm .venv | cut -f1) of about 7100 MB are in .venv"; \
	done; wait $$pip
endif

.PHONY: help setup train sweep test coverage lint faults bench docs ui runs-push runs-pull clean lock
.DEFAULT_GOAL := help

##@ Start

help:  ## show this list
	@awk -F ':.*## ' '/^##@/ {print "\n" substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-10s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "Variables, with their values now"
	@echo "  RECIPE=$(RECIPE) DATA=$(DATA) FOLDS=$(FOLDS) SPACE=\"$(SPACE)\" TRIALS=$(TRIALS) PORT=$(PORT) REMOTE=$(REMOTE) PYTHON=$(PYTHON) ARGS=$(ARGS)"
	@echo "  for example: make train RECIPE=balanced DATA=path/to/images"

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"error: PYTHON: needs Python >= 3.11, $(PYTHON) is {v.major}.{v.minor}; try make PYTHON=python3.12 ...")'
	@echo "making .venv, and installing into it with $(if $(UV),uv,pip; uv is faster, where it is installed), once; about 7 GB ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(INSTALL) --require-hashes -r requirements.lock $(WATCHED)
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@
	@echo "ready: source .venv/bin/activate, then emotion --help; or make train"

setup: $(READY)  ## make .venv from requirements.lock (hashes checked; with uv if it is installed, else with pip)

train: $(READY)  ## cross-validate RECIPE on DATA (default: quick, on drawn faces)
	@$(BIN)/emotion cross-validate --recipe $(RECIPE) --folds $(FOLDS) $(if $(DATA),--data "$(DATA)") $(ARGS)

ui: $(READY)  ## serve the MLflow page of mlruns/ and open its view of results (this machine only)
	@$(BIN)/emotion ui --port $(PORT)

##@ Many runs

sweep: $(READY)  ## search SPACE with TRIALS trials of RECIPE on DATA (more options in ARGS)
	@$(BIN)/emotion search --recipe $(RECIPE) --space $(SPACE) --trials $(TRIALS) --folds $(FOLDS) $(if $(DATA),--data "$(DATA)") $(ARGS)

runs-push: $(READY)  ## share the runs of mlruns/ through DVC, listed in mlruns.dvc (REMOTE=name or address)
	@$(BIN)/emotion runs push $(if $(REMOTE),--remote "$(REMOTE)") $(ARGS)

runs-pull: $(READY)  ## import the runs listed in mlruns.dvc into mlruns/
	@$(BIN)/emotion runs pull $(if $(REMOTE),--remote "$(REMOTE)") $(ARGS)

##@ Development

test: $(READY)  ## run the fast tests (PYTEST="-m slow" for the long ones)
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST)

coverage: $(READY)  ## run the fast tests and print the share of lines that they reach
	@$(BIN)/python -m pytest -n 2 --dist worksteal --cov=datamodules --cov=results --cov=lightning_modules --cov=sweeps --cov-report=term:skip-covered $(PYTEST)

lint: $(READY)  ## check format, style, types and imports
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports --no-logo

faults: $(READY)  ## put small faults into copies of the code, see whether the tests notice them (up to an hour; options in ARGS)
	@$(BIN)/python tests/faults.py $(ARGS)

docs: $(READY)  ## build the documentation; warnings are errors
	@$(BIN)/python -m sphinx -W --keep-going docs docs/_build/html

bench: $(READY)  ## measure speed as ratios, write benchmarks/results.json
	@$(BIN)/python -m benchmarks

clean:  ## remove what can be made again (never mlruns)
	@rm -rf build *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

lock:  ## resolve requirements.lock anew (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --extra dev --extra docs --extra dvc --extra heif \
	  --custom-compile-command "make lock" pyproject.toml -o requirements.lock
