# Every word that a person or CI types. The virtual environment is the project's own, in .venv.

SHELL := /bin/bash
.DEFAULT_GOAL := help
# tests start ngxsync some thousand times: without compiled modules each start costs twice as much
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help demo test check bench matrix storm packages-demo packages-test

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: packages-demo .venv/ready-to-run ## two nginx on this machine, kept alike before your eyes (ARGS=--keep leaves them up)
	@.venv/bin/ngxsync demo $(ARGS)

test: packages-test .venv/ready-to-develop ## all tests, as root: they make hosts of namespaces (ARGS= goes to pytest)
	@.venv/bin/python -m pytest --numprocesses 5 --dist loadfile --no-loadscope-reorder --quiet $(ARGS)

check: packages-test .venv/ready-to-develop ## format, lint, types, the agent's Python 3.6, architecture, units
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy --no-error-summary
	@.venv/bin/vermin --quiet --no-tips --eval-annotations -t=3.6- --violations ngxsync/agent
	@.venv/bin/python -m pytest --quiet --no-header tests/test_architecture.py tests/test_units.py

bench: packages-test .venv/ready-to-develop ## how fast, beside rsync from cron and other ways (writes docs/benchmarks.md)
	@.venv/bin/python -m tests.bench $(ARGS)

storm: packages-test .venv/ready-to-develop ## a random storm of edits and faults on a real pair (SEED=7 ROUNDS=200: the same again)
	@.venv/bin/python -m tests.storm $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS))

matrix: packages-test .venv/ready-to-develop ## the fault matrix, all 130 cells (writes docs/matrix.md; ARGS=-k apply for some)
	@.venv/bin/python -m tests.matrix_table $(ARGS)

packages-demo packages-test: packages-%:
	@.ci/packages $*

# the distribution's own first: it is built with optimisations
.venv/bin/python:
	@for python in /usr/bin/python3 python3.11 python3; do \
	    if $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then exec $$python -m venv .venv; fi; \
	done; echo "ngxsync needs Python 3.11 or newer, and neither python3.11 nor python3 is one" >&2; exit 1

# editable_mode: a line in a .pth, where the other mode costs every start of Python a third of it
.venv/ready-to-run: pyproject.toml | .venv/bin/python
	@.venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable .
	@touch $@

.venv/ready-to-develop: pyproject.toml | .venv/bin/python
	@.venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[dev]'
	@touch $@ .venv/ready-to-run
