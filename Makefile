SHELL := /bin/bash
PYTHON ?= python3.11
PY := .venv/bin/python
export WANDB_SILENT := true

.PHONY: help setup demo test bench gallery pretrain model-quality

help:  ## these lines
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.venv/done: requirements.lock pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(PY) -m uv pip install --quiet --python $(PY) --require-hashes -r requirements.lock
	$(PY) -m uv pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	touch $@

setup: .venv/done  ## the environment in .venv, exactly as pinned in requirements.lock

demo: setup  ## erase pizza from the embedded model: the main job, on a laptop
	$(PY) -m esd.train concept=pizza

test: setup  ## all tests
	$(PY) -m pytest -q

bench: setup  ## what an erasure costs with each source of x_t: a table and outputs/bench.json
	$(PY) -m esd.bench

gallery: setup  ## make the pictures and figures of the README again
	$(PY) -m esd.gallery

model-quality: setup  ## how well the embedded model draws: all pairs, held-out pairs, categories
	$(PY) -m esd.emoji.quality

pretrain: setup  ## make the embedded model again, from its art
	$(PY) -m esd.pretrain
