# Every target sets up what it needs in .venv, from a bare checkout at any path.

PYTEST = .venv/bin/python -m pytest
UV_COMPILE = .venv/bin/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command 'make lock' $(LOCK_FLAGS)
# Azurite has the version in its path, so that another one is another installation. What it needs is as it was on one
# day, which fixes it as well as a lock would: npm never changes what is published. No code of theirs runs to install it.
AZURITE = .venv/azurite-3.35.0
NPM_INSTALL = npm install --no-save --no-package-lock --ignore-scripts --no-audit --no-fund --before 2026-11-01

PEERS = .venv/bench-daft/installed .venv/bench-ray/installed
BENCH = .venv/bin/python -m bench.speed $(if $(DIR),"$(DIR)") --number $(or $(N),3000) --repeats $(or $(REPEATS),3)

# The settings of whoever calls are not those of the tests and the demo.
unexport $(filter-out TAGMILL_TEST_%,$(filter TAGMILL_%,$(.VARIABLES)))

.PHONY: help install demo test test-azure lint format check coverage coverage-ledger corpus chaos bench bench-peers \
	bench-growth bench-listing bench-ledger settings lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

install: ## Make .venv from the hashed lock; does nothing where that is done (PYTHON=... chooses the Python)
	@sh requirements/install.sh

demo: install ## Classify 20 photographs with two workers, and show their labels
	@.venv/bin/python demo.py

test: install ## Run every test but those of test-azure, against real servers from wheels
	@$(PYTEST) -n 2 --dist worksteal

test-azure: $(AZURITE) ## Run the tests that need an Azure, against a server from npm
	@PATH="$(CURDIR)/$(AZURITE)/node_modules/.bin:$$PATH" $(PYTEST) -n 2 --dist worksteal -m azure

$(AZURITE): | install
	@npm --version >/dev/null || { echo "test-azure: needs Node.js 20 with npm (on Debian: nodejs and npm)" >&2; exit 1; }
	rm -rf $@.new
	$(NPM_INSTALL) --prefix $@.new azurite@$(@:.venv/azurite-%=%)
	mv $@.new $@

lint: install ## Check the form of the code, its types and its imports
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy
	.venv/bin/python .venv/bin/lint-imports --no-cache

format: install ## Bring the code into form, and mend what can be mended automatically
	.venv/bin/python -m ruff check --fix-only .
	.venv/bin/python -m ruff format .

check: lint test-azure coverage-ledger test ## Lint and test: what has to pass before a commit

coverage: install ## Run every test and show the branches that none of them took
	.venv/bin/python -m coverage run -m pytest
	.venv/bin/python -m coverage combine --quiet
	.venv/bin/python -m coverage report

# It has tests of its own for each of its branches; what others reach of it by the way does not count.
LEDGER_TESTS = tests/integration/results/test_ledger.py tests/integration/results/test_staging.py

coverage-ledger: install ## Fail where its own tests leave out a branch of results/ledger.py
	@.venv/bin/python -m coverage erase
	@.venv/bin/python -m coverage run -m pytest -q -n 2 $(LEDGER_TESTS)
	@.venv/bin/python -m coverage combine --quiet
	@.venv/bin/python -m coverage report --include=results/ledger.py --fail-under=100

corpus: install ## Look at odd and damaged files as a worker does: our own, with N= mutations, or those of a folder DIR=
	@.venv/bin/python -m tests.corpus $(if $(DIR),"$(DIR)",--mutations $(or $(N),2000) --seed $(or $(SEED),0))

chaos: install ## Kill, stop and cut off everything at random for SECONDS= or N= faults, on both databases or DB=; SEED= repeats it
	@.venv/bin/python -m tests.chaos $(if $(N),--faults $(N)) $(if $(SECONDS),--seconds $(SECONDS)) \
		--seed $(or $(SEED),0) $(if $(DB),--database $(DB)) --probes $(or $(PROBES),2)

bench: install ## Measure how fast N=3000 photographs of DIR= are classified, REPEATS=3 times, and what holds it
	@$(BENCH)

bench-peers: $(PEERS) ## The same, and beside it what others use: Keras, Daft, Ray Data, naive Celery; takes half an hour
	@$(BENCH) --peers

.venv/bench-%/installed: requirements/bench-%.txt | install
	rm -rf $(@D)
	.venv/bin/python -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --no-deps --require-hashes -r $<
	touch $@

bench-growth: install ## Measure what 1,000, 10,000 and 100,000 small images cost each; takes some minutes
	@.venv/bin/python -m bench.growth --repeats $(or $(REPEATS),3)

bench-listing: install ## Measure listings of 10,000, 100,000 and 1,000,000 keys; takes some minutes and 3 GB of disk
	@.venv/bin/python -m bench.listing

bench-ledger: install ## Measure what Celery and the ledger cost a worker, on both databases; takes some minutes
	@.venv/bin/python -m bench.ledger

settings: install ## Write docs/settings.md anew from base/settings.py
	.venv/bin/python -m docs.settings_table > docs/settings.md

lock: install ## Write requirements/*.txt anew from pyproject.toml (LOCK_FLAGS=--upgrade takes newer versions)
	$(UV_COMPILE) pyproject.toml -o requirements/worker.txt
	$(UV_COMPILE) --group build -c requirements/worker.txt -o requirements/build.txt
	$(UV_COMPILE) pyproject.toml --extra train -c requirements/worker.txt -o requirements/train.txt
	$(UV_COMPILE) pyproject.toml --extra train --group dev -c requirements/train.txt -c requirements/build.txt -o requirements/dev.txt
	$(UV_COMPILE) --group pyproject.toml:bench-daft -o requirements/bench-daft.txt
	$(UV_COMPILE) --group pyproject.toml:bench-ray -o requirements/bench-ray.txt

clean: ## Remove what these targets made: .venv, caches, the homes of demo and bench; never a database of yours
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .coverage .coverage.* htmlcov build dist tagmill-data/demo tagmill-data/bench
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
