# Everything that is done with a checkout. `make` alone lists it.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test quick explore fuzz lowest lock bench docs clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup:  ## make .venv and install everything (nothing to do when nothing changed); PYTHON=python3.12 chooses
	@PYTHON="$(PYTHON)" scripts/setup

demo: setup  ## train on 2,624 images of solar cells and write a report to runs/demo
	@$(BIN)/vizsla demo

test: setup  ## formatting, lint, types, spelling, then the tests
	@scripts/check
	@scripts/test

quick: setup  ## lint and the tests that take less than a minute together
	@scripts/check --quick
	@scripts/test --quick

explore: setup  ## property tests with other random examples than every day's; a find becomes an @example
	@HYPOTHESIS_PROFILE=explore scripts/test $$(grep -rl "from hypothesis" tests --include="test_*.py")

fuzz: setup  ## feed the readers of strangers' files with inputs that reach new branches, a minute in all; SECONDS=1800 for each
	@scripts/fuzz $(SECONDS)

lowest: setup  ## run the tests with the oldest packages that pyproject.toml allows, in .venv/lowest
	@scripts/lowest

lock: setup  ## write the versions that are installed to requirements-dev.lock
	@scripts/lock

bench: setup  ## run the benchmarks on this machine (a quarter of an hour); DATA=folder brings your images
	@$(BIN)/python -m benchmarks $(if $(DATA),--data "$(DATA)")

docs: setup  ## build the documentation into site/
	@scripts/docs

clean:  ## remove what was built and cached; keeps .venv and runs/
	@rm -rf build dist site .fuzz .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	@find src tests scripts benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
