# Everything runs in .venv, built from uv.lock. Requires Python 3.11 to 3.13 with pip,
# and git.
PYTHON ?= python3
UV_VERSION := 0.13.8
BIN := .venv/bin
DEMO := runs/demo

.PHONY: help install demo test test-all soak soak-all lint format bench clean

help: ## lists the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: .venv/.installed ## builds .venv from the lock file

# uv has its own folder, so that syncing .venv does not remove it.
.bootstrap/bin/uv:
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(0 if ok else "Python 3.11, 3.12 or 3.13 is needed, this is %d.%d; use make PYTHON=..." % sys.version_info[:2])'
	@echo "Installing uv $(UV_VERSION) into .bootstrap"
	@$(PYTHON) -m venv .bootstrap
	@.bootstrap/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.installed: .bootstrap/bin/uv uv.lock pyproject.toml
	@echo "Building .venv from uv.lock"
	@UV_PYTHON_DOWNLOADS=never .bootstrap/bin/uv sync --frozen --quiet --extra dev \
		--compile-bytecode --python $(PYTHON)
	@touch $@

demo: install ## trains and evaluates a small model on embedded photographs
	$(BIN)/llie-jax data prepare lowlight_demo
	$(BIN)/python train.py --config cpga_plus_demo --workdir $(DEMO)
	$(BIN)/python eval.py --weights $(DEMO) --data lowlight_demo --split test \
		--out $(DEMO) --show-shipped
	@echo "Open $(DEMO)/report.html in a browser."

# Each worker takes whole files, because the tests of a file share the models it builds.
PYTEST := $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile \
	--max-worker-restart 0

test: install ## runs the fast suite
	$(PYTEST)

test-all: install ## runs all tests, including the slow ones
	@.bootstrap/bin/uv sync --frozen --quiet --extra dev --extra dev-gcs
	$(PYTEST) -m ""

soak: install ## breaks runs: a third of all faults, under 30 minutes
	$(BIN)/python -m tests.soak

soak-all: install ## breaks runs in all ways
	$(BIN)/python -m tests.soak --all

lint: install ## checks style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install ## rewrites files in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## measures speed; writes JSON files to bench/results
	$(BIN)/python -m bench.layers
	$(BIN)/python -m bench.pog
	$(BIN)/python -m bench.adr
	$(BIN)/python -m bench.lfpv

clean: ## removes the environment and caches, keeps runs and data
	rm -rf .venv .bootstrap .jax_cache .pytest_cache .ruff_cache
