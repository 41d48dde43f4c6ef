# The two commands: `make up` and `make test`. Each sets itself up on a fresh machine.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready

.PHONY: up test check lint types layers docs family lock soak simulate bench-vetting bench-gateway bench-engines clean

up: $(READY) ## walk the whole way of a release on the reference family, then serve it
	$(BIN)/dutchdoor up examples/gable/family.yaml $(ARGS)

test: $(READY) ## the whole test suite
	@tools/test-servers.sh
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

check: lint types layers docs test ## what CI runs

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

layers: $(READY)
	$(BIN)/lint-imports

docs: $(READY)
	$(BIN)/python tools/reference.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

family: $(READY) ## retrain the reference family from nothing (about an hour on two cores)
	$(BIN)/python examples/gable/train/make_family.py $(ARGS)

soak: $(READY) ## a thousand servers killed at random points, and the ledger held against what clients received
	DUTCHDOOR_SOAK=$(or $(POINTS),1000) $(BIN)/python -m pytest tests/functional/test_kill.py -p no:xdist -s --timeout 7200 $(ARGS)

simulate: $(READY) ## how often verdicts are wrong at their bound, and their power (about five minutes)
	$(BIN)/python bench/simulate/run.py $(ARGS)

bench-vetting: $(READY) ## measure the vetting runner against its peers (some minutes)
	$(BIN)/python bench/vetting/run.py $(ARGS)

bench-gateway: $(READY) ## measure the gateway against its peers (about a quarter of an hour)
	$(BIN)/python bench/gateway/run.py $(ARGS)

bench-engines: $(READY) ## measure the engines side by side
	$(BIN)/python bench/engines/run.py $(ARGS)

lock: ## pin every dependency again (with the oldest Python)
	$(PYTHON) tools/lock.py

clean:
	rm -rf .venv site dist .mypy_cache .ruff_cache .pytest_cache

$(READY): pyproject.toml constraints.txt requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is older than Python 3.11"; echo; echo "hint: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "setting up .venv (once; a minute or two, 1.3 GB with torch)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
