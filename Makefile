# What each target does: `make help`. Nothing here needs a network once `make setup` is done.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
CLIENTS := .venv-clients
CONVERTER := .venv-litert
# Other people's detectors; after them what RF-DETR trains with ('rfdetr[train]' would pin other versions of ours).
FRAMEWORKS := ultralytics transformers rfdetr libreyolo labelme \
	pytorch-lightning torchmetrics peft hotcoco ultrafast-pycocotools vernier torch-hungarian
# litert-torch and all that it needs beside what is there; it asks for an older torch, so pip must not decide.
LITERT := litert-torch ai-edge-quantizer litert-converter litert-lm-builder xdsl jax jaxlib jaxtyping wadler_lindig \
	opt_einsum torchao multipledispatch tabulate immutabledict lark ordered_set kagglehub
# Let an environment see the packages of .venv and hardmine (a .pth file does not read those of the folder that it names).
lend = printf '%s\n' $(CURDIR)/$(VENV)/lib/python3*/site-packages $(CURDIR)/src \
	> $$(ls -d $(1)/lib/python3*/site-packages)/hardmine.pth
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUNS := runs
# The first interpreter on the path that the project supports; override with `make PYTHON=…`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& { echo $$p; break; }; done)

.PHONY: help setup test test-browser test-clients fuzz lint types demo bench ablation mutate docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install the package with everything it needs

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "hardmine needs Python 3.11, 3.12 or 3.13 as python3 or python3.1x" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| { echo "could not make $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade >/dev/null
	@echo "installing into $(VENV): torch alone is 5.5 GB on Linux, allow a few minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,tracking,openvino,onnx,litert,ray,supervision,heif,video,review]'
	@touch $@

test: setup lint types ## lint, strict types, layers and all tests (about 13 minutes on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not browser'

test-browser: setup ## the review page in Chromium, as a person uses it; installs what is missing
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium; } \
		|| { echo "chromium is missing and cannot be installed: apt install chromium" >&2; exit 1; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/review

test-clients: setup ## tests against other frameworks' own packages, in an environment of their own (one is AGPL)
	$(PYTHON) -m venv $(CLIENTS)
	@$(call lend,$(CLIENTS))
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(FRAMEWORKS)
	HARDMINE_CLIENTS=1 OMP_NUM_THREADS=1 $(CLIENTS)/bin/python -m pytest tests/clients
	$(PYTHON) -m venv $(CONVERTER)
	@$(call lend,$(CONVERTER))
	$(CONVERTER)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt $(LITERT)
	HARDMINE_CLIENTS=1 OMP_NUM_THREADS=1 $(CONVERTER)/bin/python -m pytest tests/clients/test_litert_export.py

fuzz: setup ## 100,000 inputs for each reader of labels, predictions, lists and archives (hours)
	HARDMINE_FUZZ=100000 $(BIN)/python -m pytest --timeout 0 tests/test_fuzz_readers.py \
		$(if $(wildcard /dev/shm),--basetemp=/dev/shm/hardmine-fuzz)

lint: setup ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy --strict
	$(BIN)/mypy

demo: setup ## the whole loop on a drawn world, offline; says where report.html is
	$(BIN)/hardmine demo --out $(RUNS)/demo

bench: setup ## the benchmarks: they print machine, versions and seeds (hours)
	$(BIN)/python -m benchmarks

ablation: setup ## the ablation table: ARGS="--data DATA --negatives DIR" (hours), or ARGS=--quick (a minute)
	$(BIN)/python -m benchmarks.ablation $(ARGS)

mutate: setup ## mutation tests of matching, mining, coding, alarms, states: hours; ONLY="*box_coder*" for a part
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutation]'
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 2 $(if $(ONLY),"$(ONLY)")
	$(BIN)/mutmut results

docs: setup ## render README, docs and the references to build/docs, and check the links
	$(BIN)/python docs/build.py build/docs

clean: ## remove caches and builds; keeps .venv and runs
	rm -rf build dist mutants .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
