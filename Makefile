# Everything runs in a virtual environment of the project's own; `make demo` needs Python 3.11 or later and nothing else.
PYTHON ?= python3
VENV ?= .venv
SEEDS ?= 100
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev

.PHONY: help demo test check bench bench-place bench-scale bench-growth bench-trace sim fuzz proto format clean

help:
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(STAMP): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	@touch $@

$(DEV_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev
	@touch $@

demo: $(STAMP)  ## a three-node cluster on this machine, serving an application that loses a replica and heals
	$(BIN)/python examples/demo.py

test: $(DEV_STAMP)  ## the whole suite, with what it needs installed and started, and stopped again
	VENV=$(VENV) tests/run $(ARGS)

check: $(DEV_STAMP)  ## format, lint, types, import rules, generated code
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check

format: $(DEV_STAMP)  ## rewrite the code the way `check` wants it
	$(BIN)/ruff check --quiet --fix .
	$(BIN)/ruff format --quiet .

proto: $(DEV_STAMP)  ## regenerate protos/v1 from the .proto files
	$(BIN)/python protos/generate.py

bench: $(DEV_STAMP)  ## measure; one JSON line per case on stdout (BENCH="start idle": only these)
	@$(BIN)/python -m benchmarks $(BENCH)

sim: $(DEV_STAMP)  ## simulate SEEDS=1000 clusters under random faults, on every core (SEED=N: the first one)
	@$(BIN)/python -m tests.sim --seeds $(SEEDS) $(if $(SEED),--seed $(SEED)) --processes 0 --quiet

fuzz: $(DEV_STAMP)  ## throw FUZZ=100 times the suite's hostile input at every parser (GUIDED=60: by coverage, each so many seconds)
ifdef GUIDED
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --group fuzz
	@$(BIN)/python -m tests.guided_fuzz --seconds $(GUIDED) $(TARGETS)
else
	@PODIUM_FUZZ=$(or $(FUZZ),100) $(BIN)/python -m pytest -q -p no:cacheprovider --timeout 0 tests/property/test_hostile_input.py
endif

bench-trace: $(DEV_STAMP)  ## packing of a real cluster's GPUs beside published policies: TRACE=dir [WORKLOADS=a,b] [SEEDS=10]
	@$(BIN)/python -m benchmarks.trace $(or $(TRACE),$(error TRACE=dir names the folder of the trace)) \
		--seeds $(or $(SEEDS),10) --workloads "$(WORKLOADS)"

bench-scale: $(DEV_STAMP)  ## the control plane at size: AGENTS=5000 TASKS=100000
	@$(BIN)/python -m benchmarks.scale $(or $(AGENTS),5000) $(or $(TASKS),100000)

bench-growth: $(DEV_STAMP)  ## what one task more costs as the cluster grows: AGENTS=100,1000,5000 TASKS=0,10000,100000
	@$(BIN)/python -m benchmarks.growth $(if $(AGENTS),--agents $(AGENTS)) $(if $(TASKS),--tasks $(TASKS))

bench-place: $(DEV_STAMP)  ## placement decisions alone, in memory
	@$(BIN)/python -m benchmarks.place

clean:  ## forget the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
