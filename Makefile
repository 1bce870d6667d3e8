# Tiny recipes: the work is done by `python -m …`, which can be run by hand just as well.
SHELL := /bin/bash
PYTHON ?= python3
RUN := .venv/bin/python
WITH_JAVA = eval "$$($(RUN) -m devstack env)" &&
ARGS ?=
.DEFAULT_GOAL := help
.PHONY: help setup demo live check test lint docs fuzz audit bench lock down clean distclean

help:   ## print this list
	@sed -n 's/^\([a-z]*\): *[a-z ]*## */\1\t/p' Makefile | expand -t 12

setup:  ## pinned packages into .venv, Java, and the pinned jars; cheap when nothing changed
	@$(PYTHON) -m devstack.bootstrap

demo: setup  ## the whole product on replayed history, an hour a minute; Ctrl-C stops it
	@$(RUN) -m devstack demo

live: setup  ## the same on the real exchanges, at real speed
	@$(RUN) -m devstack demo --profile live

# One thread per library: two OpenMP pools on two cores wait for each other, at five times the CPU time.
QUICK = OMP_NUM_THREADS=1 $(RUN) -m pytest tests/unit tests/property -n auto --dist worksteal

check: lint  ## lint, then unit and property tests on all cores; needs no Java
	@$(QUICK) $(ARGS)

ifeq ($(strip $(ARGS)),)
test: lint docs  ## everything: lint, site, all tests on the real stack, branch coverage (ARGS="-k name" chooses tests)
	@$(PYTHON) -m devstack.bootstrap browser
	@status=0; \
	$(QUICK) --cov || status=$$?; \
	$(WITH_JAVA) $(RUN) -m pytest tests/parity tests/integration -n 2 --dist loadfile || status=$$?; \
	$(WITH_JAVA) $(RUN) -m pytest tests/acceptance || status=$$?; \
	exit $$status
else
test: lint
	@$(PYTHON) -m devstack.bootstrap browser
	@$(WITH_JAVA) $(RUN) -m pytest $(ARGS)
endif

lint: setup  ## ruff, mypy --strict and the directions of imports
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@.venv/bin/lint-imports

docs: setup  ## the documentation as a site in build/site; warnings are errors
	@rm -rf build/docs && mkdir -p build/docs
	@cp --parents -r *.md LICENSE docs examples devstack/sample/README.md build/docs
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

fuzz: setup   ## mutated and generated records through whole handlers (ARGS="--cases N --seed S")
	@$(RUN) -m tests.fuzz $(ARGS)

audit: setup  ## look up known vulnerabilities of Python packages and jars (error 1: found, 3: no database reached)
	@$(RUN) -m devstack audit

bench: setup  ## measure; tables and JSON in build/bench
	@$(WITH_JAVA) $(RUN) -m benchmarks

LOCK = .venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url
lock: setup  ## compile requirements*.txt from pyproject.toml; pins that still fit stay
	@$(LOCK) pyproject.toml --group dev -o requirements-dev.txt
	@$(LOCK) pyproject.toml -c requirements-dev.txt -o requirements.txt
	@$(LOCK) --group bench -o requirements-bench.txt
	@$(LOCK) --group installer -o requirements-bootstrap.txt

down:   ## stop the stack, or the demo, and all that it runs
	@if [ -x $(RUN) ]; then $(RUN) -m devstack down && $(RUN) -m devstack --profile live down; fi

clean: down  ## down, and remove its data and all that was built (.venv and the caches stay)
	@rm -rf .state build

distclean: clean  ## clean, and remove .venv too; make setup creates it again
	@rm -rf .venv
