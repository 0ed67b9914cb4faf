SHELL := /bin/bash
PYTHON ?= python3.11
PY := .venv/bin/python
export WANDB_SILENT := true

.PHONY: help setup demo test faults bench bench-quality sweep studies gallery model-quality pretrain

help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.venv/done: requirements.lock pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(PY) -m uv pip install --quiet --python $(PY) --require-hashes -r requirements.lock
	$(PY) -m uv pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	touch $@

setup: .venv/done

demo: setup  ## erase pizza from the embedded model: the main job, on a laptop
	$(PY) -m esd.train concept=pizza

test: setup  ## all tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile

faults: setup  ## kill -9, signals, full disks, damaged files, …, each tried many times: a table
	OMP_NUM_THREADS=1 $(PY) tests/faults/table.py

bench: setup  ## what an erasure costs with each source of x_t: a table and outputs/bench.json
	$(PY) -m esd.bench

bench-quality: setup  ## do the cheaper sources erase as well? An hour; goes on where it was
	$(PY) -m esd.bench.quality

sweep: setup  ## concept × η × layers on the embedded model, and its report
	$(PY) -m esd.train -m experiment=sweep hydra/launcher=cores logger=csv resume=true
	$(PY) -m esd.report "$$(ls -d outputs/multirun/*/* | tail -n 1)"

studies: setup  ## objects, η, preservation, many concepts: their tables. Over two hours; goes on where it was
	for study in objects eta preserve many frontier; do $(PY) -m esd.studies $$study || exit; done

gallery: setup  ## make the pictures and figures of the README again
	$(PY) -m esd.bench.gallery

model-quality: setup  ## how well the embedded model draws: all pairs, held-out pairs, categories
	$(PY) -m esd.bench.model_quality

pretrain: setup  ## make the embedded model again, from its art
	$(PY) -m esd.pretrain
