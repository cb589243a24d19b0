# `make setup run test check docs bench`; each does its own set-up first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup run test check docs bench format

setup: .venv/installed

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; this is " + sys.version)'
	@$(PYTHON) -m venv .venv || { echo "Python's venv module is missing: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --disable-pip-version-check --group dev --editable .
	touch $@

run: setup
	$(BIN)/gateway dev

test: setup
	$(BIN)/pytest -m "not slow" -n 4 --dist loadfile

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest tests/test_docs.py tests/test_architecture.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup
	$(BIN)/python -m tests.support.gendocs

bench: setup
	$(BIN)/python -m tests.bench.relay
