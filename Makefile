# The same doors as `emotion`, for people who type make.
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

.PHONY: help setup train sweep test coverage lint faults bench ui runs-push runs-pull clean lock
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s  %s\n", $$1, $$2}'
	@echo; echo "  variables: RECIPE=$(RECIPE) DATA=$(DATA) FOLDS=$(FOLDS) SPACE=\"$(SPACE)\" TRIALS=$(TRIALS) REMOTE=$(REMOTE) ARGS=$(ARGS) PORT=$(PORT) PYTHON=$(PYTHON)      e.g. make train RECIPE=balanced DATA=path/to/images"

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"error: PYTHON: needs Python >= 3.11, $(PYTHON) is {v.major}.{v.minor}; try make PYTHON=python3.12 ...")'
	@echo "installing into .venv (once; 3 to 20 minutes without a word, about 6.5 GB) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup: $(READY)  ## make .venv from requirements.lock (hashes enforced)

train: $(READY)  ## cross-validate RECIPE on DATA (default: quick, on drawn faces)
	@$(BIN)/emotion cross-validate --recipe $(RECIPE) --folds $(FOLDS) $(if $(DATA),--data "$(DATA)") $(ARGS)

sweep: $(READY)  ## search SPACE with TRIALS trials of RECIPE on DATA (more options in ARGS)
	@$(BIN)/emotion search --recipe $(RECIPE) --space $(SPACE) --trials $(TRIALS) --folds $(FOLDS) $(if $(DATA),--data "$(DATA)") $(ARGS)

test: $(READY)  ## run the fast tests (PYTEST="-m slow" for the long ones)
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST)

coverage: $(READY)  ## run the fast tests and print the share of lines that they reach
	@$(BIN)/python -m pytest -n 2 --dist worksteal --cov=datamodules --cov=results --cov=lightning_modules --cov=sweeps --cov-report=term:skip-covered $(PYTEST)

lint: $(READY)  ## check format, style, types and imports
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports --no-logo

faults: $(READY)  ## put small faults into copies of the code, see whether the tests notice them (up to an hour; options in ARGS)
	@$(BIN)/python tests/faults.py $(ARGS)

bench: $(READY)  ## measure speed as ratios, write benchmarks/results.json
	@$(BIN)/python -m benchmarks

ui: $(READY)  ## open the MLflow page of mlruns/ (this machine only)
	@$(BIN)/emotion ui --port $(PORT)

runs-push: $(READY)  ## share the runs of mlruns/ through DVC (REMOTE=name or address; mlruns.dvc names them)
	@$(BIN)/emotion runs push $(if $(REMOTE),--remote "$(REMOTE)") $(ARGS)

runs-pull: $(READY)  ## take the runs that mlruns.dvc names into mlruns/
	@$(BIN)/emotion runs pull $(if $(REMOTE),--remote "$(REMOTE)") $(ARGS)

clean:  ## remove what can be made again (never mlruns)
	@rm -rf build *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

lock:  # resolve requirements.lock anew; needs uv
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --extra dev --extra docs --extra dvc --extra heif \
	  --custom-compile-command "make lock" pyproject.toml -o requirements.lock
