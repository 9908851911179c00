# What can be done here. On a fresh machine each of these does all the set-up it needs, into .venv and .tools.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check bench tools venv clean

python := .venv/bin/python
export PYTHON

help:  ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 16

demo: venv  ## a whole visit on loopback, step by step, then yours to try (ONCE=1 ends after the walk)
	@scripts/tools.sh ssh
	@$(python) -m bastion demo $(if $(ONCE),--once)

test: venv tools  ## every test (ARGS="tests/core -k law" for some of them)
	$(python) -m pytest -q -n 2 --dist loadscope $(ARGS)

check: venv  ## ruff, mypy --strict, and the direction of the imports
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m mypy
	.venv/bin/lint-imports

bench: venv tools  ## the figures, one per line (BENCH=ssh those that begin so; BENCH=ssh_exact alone: gigabytes, byte by byte)
	@$(python) -m tests.benchmarks $(BENCH)

tools: venv  ## the real programs that tests and demo run, unpacked into .tools, never installed or started
	@scripts/tools.sh
	@scripts/provider.sh

venv:  ## .venv from requirements.lock
	@scripts/venv.sh

clean:  ## remove everything that make made
	rm -rf .venv .tools .demo .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache dist
	find bastion tests -name __pycache__ -type d -prune -exec rm -rf {} +
