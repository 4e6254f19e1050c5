# Everything here does its own set-up. `make help` lists what there is.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
# Only what is not there already asks for more rights.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
CODE := deploys facts inventories examples helpers/pcibind/src tests

.PHONY: help setup demo test worlds soak check bench lock clean
help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

$(VENV)/ready: requirements.lock helpers/pcibind/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON="; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  command -v apt-get >/dev/null || { echo "Install your distribution's package for Python's venv, then run again"; exit 1; }; \
	  echo "Installing python3-venv, to keep this project's Python packages apart from the system's"; \
	  { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends python3-venv; } >$(VENV).log 2>&1 \
	    || { cat $(VENV).log; exit 1; }; rm $(VENV).log; }
	@echo "Installing the locked Python packages into $(VENV)"
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	@$(RUN)/pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	@$(RUN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e helpers/pcibind
	@touch $@

setup: $(VENV)/ready ## install the operator's side into .venv
	@echo "Installed. Now: . $(RUN)/activate"

demo: $(VENV)/ready ## a virtual GPU host, and the deploy against it, from bare to verified
	@$(RUN)/python -m tests.lab.demo

# Each file of tests has machines of its own; the longest ones begin first.
LAB := -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/ready ## each behaviour once, on real kernels; at most 30 minutes
	@$(RUN)/python -m tests.browser
	@$(RUN)/python -m tests.lab ready
	@$(RUN)/python -m pytest -q -m "not worlds and not soak" $(LAB) tests

worlds: $(VENV)/ready ## the matrices over hosts; hours. PLATFORM=NAME: the life of a host of one platform
	@$(RUN)/python -m tests.lab ready $(if $(PLATFORM),--platform "$(PLATFORM)")
	@$(RUN)/python -m pytest -q -m worlds $(if $(PLATFORM),"tests/system/test_worlds.py::test_a_host_of_a_platform_is_deployed_and_undone[$(PLATFORM)]",$(LAB) tests)

soak: $(VENV)/ready ## the matrices over moments: kills, power cuts, boots in a row; hours
	@$(RUN)/python -m tests.lab ready
	@$(RUN)/python -m pytest -q -m soak $(LAB) tests

bench: $(VENV)/ready ## the peers, run beside us; about two hours
	@$(RUN)/python -m tests.benchmarks.binding
	@$(RUN)/python -m tests.benchmarks.boot
	@$(RUN)/python -m tests.benchmarks.topology
	@$(RUN)/python -m tests.benchmarks.fleet
	@$(RUN)/python -m tests.benchmarks.node

check: $(VENV)/ready ## format, lint, spelling, types, imports, shell and unit tests; under a minute
	@$(RUN)/ruff format --check $(CODE)
	@$(RUN)/ruff check $(CODE)
	@$(RUN)/codespell $(CODE) docs *.md
	@$(RUN)/mypy deploys facts inventories/template.py helpers/pcibind/src tests/lab tests/plugins tests/corpus tests/fleet tests/browser tests/benchmarks tests/system/binder.py
	@$(RUN)/python -m pytest -q -m "not kernel and not commands" -n 2 --dist loadfile tests/unit

lock: ## resolve the locked packages anew (needs uv)
	$(PYTHON) -m uv pip compile -q --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --no-annotate \
	  --universal --python-version 3.11 --no-emit-package pcibind --all-extras --group test --group check --group build \
	  pyproject.toml -o requirements.lock

clean: ## remove what the commands above made here; the lab's images stay in ~/.cache/gevulot-lab
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
