PYTHON ?= .venv/bin/python

SEED ?= 1
COUNT ?= 1

.PHONY: check test soak docs venv

check:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -n auto

test:
	$(PYTHON) -m pytest -n auto

soak:  # the long half of the random suites: make soak SEED=7 COUNT=2
	$(PYTHON) -m pytest -m soak --soak $(COUNT) --seed $(SEED) --timeout 0

docs:  # docs/cli.md from the help of the commands
	$(PYTHON) -m tests.cli_doc

venv:
	test -x .venv/bin/python || python3 -m venv .venv
	.venv/bin/pip install -q -e '.[dev]'
