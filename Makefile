# `make help` lists the targets. All of them work in .venv, which the first one sets up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check check-cpus bench docs format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## create .venv and install prm with all that development needs

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; \
	    sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 13) else "error: prm needs Python 3.11 to 3.13, got " \
	    + sys.version.split()[0] + "; choose one with make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,interop,peft,plots,serve]'
	@touch $@

demo: setup ## train a small process reward model from scratch and score a chain with it
	$(BIN)/python -m prm.cli.demo

test: check ## check, then run the default tests
	$(BIN)/python -m pytest -n 2

check: setup ## lint, format, types, import layers, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

check-cpus: setup ## run the default tests as on other machines: with one thread, with two, with AVX2 kernels
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
	OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -n 2

bench: setup ## measure speed and memory
	@test -f tests/benchmarks/__main__.py || { echo "error: tests/benchmarks has no benchmark yet" >&2; exit 2; }
	$(BIN)/python -m tests.benchmarks

docs: setup ## build the documentation into docs/_build/html; warnings are errors
	$(BIN)/sphinx-build -n -W --keep-going docs docs/_build/html

format: setup ## fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches and built files; .venv and runs stay
	rm -rf build docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find prm tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
