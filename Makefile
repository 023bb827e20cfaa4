# Two commands: `make demo` and `make test`. Both make what they need and are safe to repeat.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LIBRARY := src/sealtune/native/libsealtune.so
# Two at a time: much of a whole run is waiting.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadscope
# Tests whose result hangs on the processor's arithmetic, run again as on a processor without AVX-512
# and VNNI, and on any other. Not among them: files and formats, hostile peers, and runs in several
# processes, which compute what the same code computes here. test_processors.py sets instructions itself.
NUMERIC := tests/offload tests/accelerator tests/baseline \
  $(addprefix tests/tuning/,test_lora_variants.py test_new_tuner.py test_ptuning.py) \
  $(addprefix tests/model/,spf/test_equality.py spf/test_selection.py test_activations.py \
    test_cut.py test_example_gradients.py test_families.py test_inference.py test_lora.py test_merge.py \
    test_tasks.py test_training.py) \
  tests/enclave/test_federation.py tests/enclave/test_split.py \
  --ignore=tests/offload/test_processors.py --ignore=tests/offload/test_wire.py
AVX2 = SEALTUNE_NATIVE=$(shell [ -f $(LIBRARY) ] && echo avx2 || echo off) ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2
BASIC := SEALTUNE_NATIVE=off ATEN_CPU_CAPABILITY=default

.PHONY: demo demo-split demo-hosts test test-processors check lint pins docs clean help

help:
	@echo "make demo    three hospitals fine-tune a real model together; writes runs/icd10/report.html"
	@echo "make demo-split   the same hospitals without TEEs; writes runs/icd10-split/report.html"
	@echo "make demo-hosts   the same hospitals, each on a host (network namespace) of its own; as root"
	@echo "make test    the whole test suite"
	@echo "make test-processors   the numeric tests with the instruction sets of other processors"
	@echo "make check   lint, types, import rule, both kinds of tests (what CI runs)"
	@echo "make pins    write anew which files each program may load (src/sealtune/programs)"
	@echo "make docs    the tables of docs/job-file.md, from the settings' own texts"
	@echo "make clean   remove the virtual environment and the demo's files"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("sealtune needs Python 3.11 to 3.13; try: make PYTHON=python3.12" if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	touch $(STAMP)

# editable installs run setup.py, which builds it; this is for sources that have changed since
$(LIBRARY): $(STAMP) $(wildcard src/sealtune/native/*.[ch])
	-$(BIN)/python -m sealtune.native.build

demo: $(LIBRARY)
	$(BIN)/sealtune demo-model --out demo/model
	$(BIN)/sealtune demo-data icd10 --out demo/data/icd10
	$(BIN)/sealtune run examples/icd10.toml --force
	$(BIN)/sealtune run examples/icd10.toml --baseline local

demo-split: $(LIBRARY)
	$(BIN)/sealtune demo-model --out demo/model
	$(BIN)/sealtune demo-data icd10 --out demo/data/icd10
	$(BIN)/sealtune run examples/icd10-split.toml --force

demo-hosts: $(LIBRARY)
	@[ "$$(id -u)" = 0 ] || { echo "hosts are network namespaces, which need root: sudo make demo-hosts"; exit 1; }
	$(BIN)/sealtune demo-model --out demo/model
	$(BIN)/sealtune demo-data icd10 --out demo/data/icd10
	$(BIN)/sealtune demo-hosts

test: $(LIBRARY)
	$(PYTEST)

test-processors: $(LIBRARY)
	$(AVX2) $(PYTEST) $(NUMERIC)
	$(BASIC) $(PYTEST) $(NUMERIC)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pins: $(STAMP)
	$(BIN)/sealtune tcb --pin

docs: $(STAMP)
	$(BIN)/python -m sealtune.job.reference docs/job-file.md

check: lint test test-processors

clean:
	rm -rf $(VENV) demo/model demo/data
