# Two commands: `make demo` and `make test`. Both make what they need and are safe to repeat.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LIBRARY := src/sealtune/native/libsealtune.so
# what pytest makes of a test file is kept for the runs that follow, and for the other worker
unexport PYTHONDONTWRITEBYTECODE
# Two at a time: much of a whole run is waiting.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadscope
# Tests whose result hangs on the processor's arithmetic, run again as on a processor without AVX-512
# and VNNI, and on any other. Not among them: files and formats, hostile peers, what happens when and
# in which order, and runs in several processes, which compute what the same code computes here.
# test_processors.py sets instructions itself.
NUMERIC := $(addprefix tests/offload/,test_codes.py test_frozen.py test_kernels.py test_lies.py \
    test_masked.py test_ring.py test_training.py test_vectors.py test_wiretap.py \
    $(addprefix test_prime_check.py::,test_honest_products_pass test_one_changed_entry_is_caught) \
    test_enclave_pads.py::test_no_number_depends_on_when_a_pad_was_made \
    test_second.py::test_products_are_right_however_steps_go) \
  $(addprefix tests/accelerator/,test_lanes.py::test_products_are_exact_in_any_order_of_events \
    test_server.py::test_products_are_those_of_the_engine) \
  $(addprefix tests/tuning/,test_lora_variants.py test_new_tuner.py test_ptuning.py) \
  $(addprefix tests/model/,spf/test_equality.py spf/test_selection.py test_activations.py \
    test_cut.py test_example_gradients.py test_families.py test_inference.py test_lora.py test_merge.py \
    test_tasks.py test_training.py) \
  $(addprefix tests/enclave/test_federation.py::,test_the_result_is_that_of_plain_fedavg \
    test_other_tasks_run_through test_other_levels_of_protection_run_through \
    test_checkpointing_changes_nothing_but_the_number_of_products) \
  $(addprefix tests/enclave/test_split.py::,test_split_equals_unsplit test_checkpointing_changes_nothing \
    test_bf16_weights_under_what_is_tuned test_precisions_of_the_server) \
  tests/baseline/test_run.py::test_a_baseline_repeats
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
