# Every target sets up what it needs in .venv, from a bare checkout at any path.

PYTEST = .venv/bin/python -m pytest
UV_COMPILE = .venv/bin/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command 'make lock' $(LOCK_FLAGS)

# The settings of whoever calls are not those of the tests and the demo.
unexport $(filter-out TAGMILL_TEST_%,$(filter TAGMILL_%,$(.VARIABLES)))

.PHONY: help install demo test lint format check coverage bench-listing settings lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

install: ## Make .venv from the hashed lock; does nothing where that is done (PYTHON=... chooses the Python)
	@sh requirements/install.sh

demo: install ## Classify 20 photographs with two workers, and show their labels
	@.venv/bin/python demo.py

test: install ## Run every test, against real servers from wheels
	@$(PYTEST) -n 2 --dist worksteal

lint: install ## Check the form of the code, its types and its imports
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy
	.venv/bin/python .venv/bin/lint-imports --no-cache

format: install ## Bring the code into form, and mend what can be mended automatically
	.venv/bin/python -m ruff check --fix-only .
	.venv/bin/python -m ruff format .

check: lint test ## Lint and test: what has to pass before a commit

coverage: install ## Run every test and show the branches that none of them took
	.venv/bin/python -m coverage run -m pytest
	.venv/bin/python -m coverage combine --quiet
	.venv/bin/python -m coverage report

bench-listing: install ## Measure listings of 10,000, 100,000 and 1,000,000 keys; takes some minutes and 3 GB of disk
	@.venv/bin/python -m bench.listing

settings: install ## Write docs/settings.md anew from base/settings.py
	.venv/bin/python -m docs.settings_table > docs/settings.md

lock: install ## Write requirements/*.txt anew from pyproject.toml (LOCK_FLAGS=--upgrade takes newer versions)
	$(UV_COMPILE) pyproject.toml -o requirements/worker.txt
	$(UV_COMPILE) --group build -c requirements/worker.txt -o requirements/build.txt
	$(UV_COMPILE) pyproject.toml --extra train -c requirements/worker.txt -o requirements/train.txt
	$(UV_COMPILE) pyproject.toml --extra train --group dev -c requirements/train.txt -c requirements/build.txt -o requirements/dev.txt

clean: ## Remove what these targets made: .venv, caches, the demo's home; never a database of yours
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .coverage .coverage.* htmlcov build dist tagmill-data/demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
