# Each target sets up what it needs; what is there already is not installed again.
PYTHON ?= $(shell for one in python3.11 python3.12 python3.13 python3.14 python3; do \
  command -v $$one && break; done)
STORE ?= $(or $(MLFLOW_TRACKING_URI),sqlite:///$(CURDIR)/mlflow.db)
PORT ?= 5000
# Relative, as the project's path may contain a space. Recipes name programs as $(BIN)/…, as make
# may start a command without a shell, by the PATH that it was started with, not by the one below.
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export STORE  # commands name it as the shell does: make prints them, and it may hold a password

PYTEST := $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

.PHONY: help run test test-fast lint ui bench bench-peers screenshots lock store
.DEFAULT_GOAL := help

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##/make \1 \t/p' $(MAKEFILE_LIST)

run: store  ## the whole project, small, on built-in data; ARGS="-P ratings=ml-latest-small"
	MLFLOW_LOGGING_LEVEL=WARNING $(BIN)/mlflow run . --env-manager local --experiment-name embedlab $(ARGS)

test: lint  ## linters, types and all tests; ARGS="tests/serving/test_titles.py"
	$(PYTEST) $(ARGS)

test-fast: lint  ## the same without processes, servers, tracking stores and real data
	$(PYTEST) -m "not slow and not real" $(ARGS)

lint: $(VENV)/.test  ## linters and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: store  ## the MLflow UI on the same store; PORT=5000
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui --backend-store-uri "$$STORE" --port $(PORT)

# The store is created before a UI or run starts. One that a UI creates keeps its artifacts where
# local runs cannot write, and one that a killed `mlflow run` leaves cannot be opened.
store: $(VENV)/.run
	PYTHONPATH=src MLFLOW_TRACKING_URI="$$STORE" $(BIN)/python -c \
	  "from embedlab.cli.parser import run_main; from embedlab.tracking.database import initialise_store; \
	  run_main(lambda _: initialise_store())"

bench: $(VENV)/.run  ## speed and memory, as ratios; ARGS="--ratings <path>"
	$(BIN)/python -m benchmarks.movies $(ARGS)
	$(BIN)/python -m benchmarks.vision
	$(BIN)/python -m benchmarks.startup

bench-peers: $(VENV)/.run  ## fits beside the library implicit's; ARGS="--folder <for synthetic ratings>"
	grep ^implicit= requirements-extra.txt | $(BIN)/python -m pip install -r /dev/stdin
	$(BIN)/python -m benchmarks.peers $(ARGS)

screenshots: $(VENV)/.run  ## the README's screenshots, by chromium; ARGS="--ratings <path>"
	$(BIN)/python docs/screenshots.py $(ARGS)

lock: $(VENV)/.test  ## requirements.lock from requirements.txt, for every system
	$(BIN)/uv pip compile requirements.txt --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --no-header --no-emit-find-links -o requirements.lock

$(VENV)/.run: requirements.lock
	@test -x $(BIN)/python || { test -n "$(PYTHON)" && $(PYTHON) -c \
	  "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"; } 2>/dev/null || { echo \
	  "embedlab needs Python 3.11 or newer with its venv (on Debian and Ubuntu: apt install" \
	  "python3-venv), or the path of one: make PYTHON=<path>" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -r requirements.lock
	touch $@

$(VENV)/.test: requirements-dev.txt $(VENV)/.run
	$(BIN)/python -m pip install -r requirements-dev.txt
	touch $@
