# Two commands: `make demo` and `make test`. Both make what they need and are safe to repeat.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo demo-split test check lint clean help

help:
	@echo "make demo    three hospitals fine-tune a real model together; writes runs/icd10/report.html"
	@echo "make demo-split   the same hospitals without TEEs; writes runs/icd10-split/report.html"
	@echo "make test    the whole test suite"
	@echo "make check   lint, types, import rule, tests (what CI runs)"
	@echo "make clean   remove the virtual environment and the demo's files"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("sealtune needs Python 3.11 to 3.13; try: make PYTHON=python3.12" if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/sealtune demo-model --out demo/model
	$(BIN)/sealtune demo-data icd10 --out demo/data/icd10
	$(BIN)/sealtune run examples/icd10.toml --force
	$(BIN)/sealtune run examples/icd10.toml --baseline local

demo-split: $(STAMP)
	$(BIN)/sealtune demo-model --out demo/model
	$(BIN)/sealtune demo-data icd10 --out demo/data/icd10
	$(BIN)/sealtune run examples/icd10-split.toml --force

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

clean:
	rm -rf $(VENV) demo/model demo/data
