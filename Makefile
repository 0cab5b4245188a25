# make demo    the whole system on this machine, in about fifteen seconds
# make test    every test                         make test T=tests/log K=merkle
# make up      the whole system on manifests/, until Ctrl-C
PYTHON ?= python3
PY := .venv/bin/python
SOURCES := lib daemon sidecar store tests benchmarks
# Test processes; tests share nothing but the machine.
JOBS ?= 2

.DEFAULT_GOAL := check
.PHONY: demo up test torture check lint types bench fix

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --editable '.[all]' --group dev
	touch $@

demo: .venv/ready
	.venv/bin/control-plane demo

up: .venv/ready
	.venv/bin/control-plane init .control-plane-up --if-absent --manifests manifests -e development -e staging -e production
	.venv/bin/control-plane up --project .control-plane-up

test: .venv/ready
	$(PY) -m pytest -n $(JOBS) --dist loadfile -m 'not torture' $(T) $(if $(K),-k '$(K)')

torture: .venv/ready
	$(PY) -m pytest -m torture --timeout 1800 $(T)

check: lint types test
lint: .venv/ready
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m ruff format --check $(SOURCES)
types: .venv/ready
	$(PY) -m mypy
bench: .venv/ready
	$(PY) -m benchmarks
fix: .venv/ready
	$(PY) -m control_plane.schemas manifests/schemas
	$(PY) -m ruff check --fix $(SOURCES)
	$(PY) -m ruff format $(SOURCES)
