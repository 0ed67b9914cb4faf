SHELL := /bin/bash
PYTHON ?= python3.11 python3.12 python3.13 python3.14 python3
PY := .venv/bin/python
# The first of $(PYTHON) that runs, is 3.11 to 3.14, and can make a virtual environment.
CHECK := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
FOUND = $(shell for name in $(PYTHON); do "$$name" -c '$(CHECK)' 2>/dev/null && echo "$$name" && break; done)
MISSING = $(error no Python 3.11 to 3.14 with pip and venv among "$(PYTHON)": install one, or name it with PYTHON=)
export WANDB_SILENT := true

.PHONY: help setup demo test faults bench bench-quality sweep studies gallery model-quality pretrain

help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# The lock is made by: uv pip compile pyproject.toml --universal --python-version 3.11 --extra dev --extra art \
#   --generate-hashes --no-annotate --no-header -o requirements.lock
.venv/done: requirements.lock pyproject.toml
	$(if $(wildcard $(PY)),,$(or $(FOUND),$(MISSING)) -m venv .venv)
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(PY) -m uv pip install --quiet --python $(PY) --compile-bytecode --require-hashes -r requirements.lock
	$(PY) -m uv pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	touch $@

setup: .venv/done

demo: setup  ## erase pizza from the embedded model: the main job, on a laptop
	$(PY) -m esd.train concept=pizza

test: setup  ## the linter and the tests (pytest -m slow: those left out); FAST=1: those that a change needs, in two minutes
	$(PY) -m ruff check . && $(PY) -m ruff format --check .
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile $(if $(FAST),-m "not slow and not run")

faults: setup  ## kill -9, signals, full disks, damaged files, …, each tried many times: a table
	OMP_NUM_THREADS=1 $(PY) tests/faults/table.py

bench: setup  ## what an erasure costs with each source of x_t: a table and outputs/bench.json
	$(PY) -m esd.bench

bench-quality: setup  ## do the cheaper sources erase as well? An hour; goes on where it was
	$(PY) -m esd.bench.quality

sweep: setup  ## concept × η × layers on the embedded model, and its report
	$(PY) -m esd.train -m experiment=sweep hydra/launcher=cores logger=csv hydra.sweep.dir=outputs/sweep resume=true
	$(PY) -m esd.report outputs/sweep

studies: setup  ## objects, η, preservation, many concepts: their tables. Over two hours; goes on where it was
	for study in objects default eta preserve many; do $(PY) -m esd.studies $$study || exit; done

gallery: setup  ## make the pictures and figures of the README again
	$(PY) -m esd.bench.gallery

model-quality: setup  ## how well the embedded model and its twin draw: all pairs, held-out pairs, other words, categories
	$(PY) -m esd.bench.model_quality
	$(PY) -m esd.bench.model_quality --model emoji-twin

pretrain: setup  ## make the embedded model again, from its art
	$(PY) -m esd.pretrain
