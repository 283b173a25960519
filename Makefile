# Needs make and Python 3.11 or newer; everything else comes out of requirements.lock into .venv.
# `make` alone lists the targets.

VENV   := .venv
STAMP  := $(VENV)/.stamp
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check --no-input
# Where `make kafka` starts one: make test-kafka BROKER=127.0.0.1:19092 beside another checkout's.
BROKER ?= 127.0.0.1:9092

# The newest usable interpreter, or what the caller says: make venv PYTHON=/opt/python3.13/bin/python3
PYTHON ?=
FIND_PYTHON = for python in $(PYTHON) python3.14 python3.13 python3.12 python3.11 python3; do \
	    if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	    then break; fi; python=; \
	done; \
	if [ -z "$$python" ]; then echo "doortab needs Python 3.11 or newer with venv (Debian: python3-venv)" >&2; exit 1; fi

# Passed to pytest: make test ARGS="-k money -x"
ARGS ?=

# What tests have noted of the promises, by the target that ran them.
FIGURES = build/figures
# How often `make reliability` tries each law.
EXAMPLES = 500

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ------------------------------------------------------------------------------------------- install
.PHONY: venv
venv: $(STAMP) ## .venv with everything, from the lock; instant when nothing changed
	@:

# The hashes are checked, and only wheels are taken: nobody's setup.py runs here.
$(STAMP): requirements.lock pyproject.toml
	@$(FIND_PYTHON); \
	if [ -x $(PY) ] && $(PY) -c 'import pip' 2>/dev/null; then :; else \
	    echo "making $(VENV) with $$("$$python" --version)"; rm -rf $(VENV); "$$python" -m venv $(VENV); fi
	$(PIP) install --quiet --require-hashes --only-binary :all: -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

UV_LOCK = build/lock/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-config --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet

# Two locks with the same versions: requirements.lock for who works here, requirements-run.lock for what
# runs (the image). They name no index: whoever installs decides where packages come from.
.PHONY: lock
lock: ## both lock files anew from pyproject.toml (UPGRADE=--upgrade takes newer versions)
	@$(FIND_PYTHON); [ -x build/lock/bin/uv ] || { "$$python" -m venv build/lock && \
	    build/lock/bin/python -m pip --disable-pip-version-check install --quiet 'uv==0.13.9'; }
	$(UV_LOCK) --extra all --extra dev --constraint constraints.txt $(UPGRADE) --output-file requirements.lock
	$(UV_LOCK) --extra all --constraint requirements.lock --output-file requirements-run.lock

# ----------------------------------------------------------------------------------------------- use
.PHONY: demo
demo: $(STAMP) ## the show: a gate, a ledger, a cap that is reached, a bill
	$(VENV)/bin/doortab demo

# --------------------------------------------------------------------------------------------- check
# Tests write small files and sync them all the time: in memory, where there is room, that takes no time. (The kills
# of `make reliability` happen on the disk.)
ROOM_KB := $(shell df -Pk /dev/shm 2>/dev/null | awk 'END { print $$4 + 0 }')
IN_MEMORY := $(shell [ -w /dev/shm ] && [ $(ROOM_KB) -gt 2000000 ] && echo TMPDIR=/dev/shm)
PYTEST = $(IN_MEMORY) $(PY) -m pytest -ra -n 2 --dist worksteal

.PHONY: test
test: $(STAMP) ## the tests; what was skipped, and why, stands at the end (ARGS="-k words")
	$(PYTEST) $(ARGS)

SEEDS ?= 100
FIRST ?=
.PHONY: simulate
simulate: $(STAMP) ## histories in the simulator, killed and cut off at will (SEEDS=100, FIRST=a seed)
	PYTHONHASHSEED=0 $(PY) -m tests.simulation $(SEEDS) $(FIRST)

.PHONY: check
check: $(STAMP) ## all that CI checks: format, lint, types, directions, tests
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo
	$(PYTEST) $(ARGS)

.PHONY: format
format: $(STAMP) ## formats the code and sorts the imports
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix-only --quiet .

# The files come from the caller's environment, else the tests take their own.
.PHONY: vectors
vectors: $(STAMP) ## checks DOORTAB_RATING_VECTORS and DOORTAB_METER_VECTORS (JSON lines) against our arithmetic
	$(PY) -m pytest -ra tests/vectors $(ARGS)

.PHONY: kafka
kafka: $(STAMP) ## starts a real Apache Kafka here (Java 17 and Maven, no Docker)
	$(PY) tools/kafka.py start --port $(lastword $(subst :, ,$(BROKER)))

.PHONY: kafka-stop
kafka-stop: $(STAMP) ## stops the one that `make kafka` started
	$(PY) tools/kafka.py stop --port $(lastword $(subst :, ,$(BROKER)))

.PHONY: test-kafka
test-kafka: kafka ## the tests that want a real broker
	rm -rf $(FIGURES)/$@
	DOORTAB_TEST_KAFKA=$(BROKER) DOORTAB_TEST_FIGURES=$(CURDIR)/$(FIGURES)/$@ \
	    $(PY) -m pytest -ra -n 2 --dist worksteal -m kafka $(ARGS)

# The lock stays with the release that upstream advises for data one cannot lose; the next one must work too.
NEXT_DUCKDB = 2.0.0
.PHONY: test-duckdb-next
test-duckdb-next: $(STAMP) ## the tests of the store on the next release of DuckDB
	$(PIP) install --quiet --upgrade --no-deps --only-binary :all: --target build/duckdb-next duckdb==$(NEXT_DUCKDB)
	PYTHONPATH=build/duckdb-next $(PYTEST) tests/analytics tests/care tests/crashes tests/walk $(ARGS)

# Each of these keeps what it shows of the promises; `make reliability` adds it up on docs/reliability.md,
# and only prints it where it was told (ARGS="tests/care") to run a part.
.PHONY: reliability
reliability: $(STAMP) ## ten minutes of kills, faults and seeds; writes docs/reliability.md
	rm -rf $(FIGURES)/$@
	DOORTAB_TEST_RELIABILITY=1 DOORTAB_TEST_FIGURES=$(CURDIR)/$(FIGURES)/$@ DOORTAB_TEST_EXAMPLES=$(EXAMPLES) \
	    $(PY) -m pytest -ra -n 2 --dist worksteal -m "(reliability or promises) and not kafka" $(ARGS)
	$(PY) -m tests.promises $(FIGURES) $(if $(ARGS),,docs/reliability.md)

DOORTAB_TEST_SOAK ?= 600
.PHONY: soak
soak: $(STAMP) ## everything runs and parts of it are killed, for DOORTAB_TEST_SOAK=600 seconds
	rm -rf $(FIGURES)/$@
	DOORTAB_TEST_SOAK=$(DOORTAB_TEST_SOAK) DOORTAB_TEST_FIGURES=$(CURDIR)/$(FIGURES)/$@ \
	    $(PY) -m pytest -ra -s -m soak $(ARGS)

# ------------------------------------------------------------------------------------------- measure
.PHONY: bench
bench: $(STAMP) ## how fast we are on this machine
	$(PY) -m benchmarks

.PHONY: bench-peers
bench-peers: $(STAMP) ## how fast others are on the same work
	$(PY) -m benchmarks.peers

# --------------------------------------------------------------------------------------------- clean
.PHONY: clean
clean: ## removes what can be made again (not .doortab: that is data; not .kafka: stop it first)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
