# Everything happens in the project's own .venv; a fresh machine needs git, make and Python >= 3.11.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help run test check fmt bench soak clean
.DEFAULT_GOAL := help

help: ## Show what make can do
	@grep -hE '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(READY): pyproject.toml uv.lock
	@if [ -z "$(PYTHON)" ]; then echo "Meshway needs Python 3.11 or newer on the PATH (or: make PYTHON=/path/to/python3.12)." >&2; exit 1; fi
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  v=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  echo "Python's venv module is missing. On Debian and Ubuntu: apt-get install python$$v-venv (or python3-venv)." >&2; exit 1; }
	@[ -x $(BIN)/uv ] || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; }
	@$(BIN)/uv sync --locked --quiet --python $(BIN)/python
	@touch $@

run: $(READY) ## Start the hub on 127.0.0.1:7070 with demo agents
	@exec $(BIN)/meshway up --demo $(ARGS)

# Two files of tests at a time: many of them wait for time to pass. JOBS=0: one after the other, as a debugger wants it.
JOBS ?= 2

test: $(READY) ## Run everything that proves the product works
	$(BIN)/python -m pytest -m "not soak" -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(READY) ## Format, lint, types, walls and house rules, in under a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/house

fmt: $(READY) ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## Run all benchmarks (bench-relay, bench-engine, ...: one of them)
	$(BIN)/python -m benchmarks

bench-%: $(READY)
	$(BIN)/python -m benchmarks $*

soak: $(READY) ## The long forms of the fault tests
	$(BIN)/python -m pytest -m soak --timeout 3600 $(ARGS)

clean: ## Remove the environment and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
