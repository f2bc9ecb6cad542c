# Every target sets up what it needs: Python 3.11+ and make are all that is assumed.
PYTHON ?= python3
UV_VERSION = 0.13.9
BIN = .venv/bin
STAMP = .venv/.installed

.PHONY: help setup demo ui test lint types imports pytest lock clean

help:  ## Show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(STAMP)  ## Make .venv with the locked packages and labline itself

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "labline needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes --requirements requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## Play the whole loop: train, serve, drift, retrain, good again
	$(BIN)/labline demo

ui: setup  ## Serve the MLflow and Prefect pages on loopback
	$(BIN)/labline ui

test: lint types imports pytest  ## Lint, types, import direction, tests

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

pytest: setup
	$(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

lock: setup  ## Resolve requirements.lock anew: hashes, no download addresses
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --no-annotate \
		--group dev --all-extras pyproject.toml --output-file requirements.lock

clean:  ## Remove the environment and everything that was recorded
	rm -rf .venv .labline .benchmarks
