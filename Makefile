# The two commands of the README are `make demo` and `make test`; everything else is listed by `make help`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
READY := $(VENV)/.ready

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-cluster lint type arrows docs pages bench bench-runtime bench-async bench-attacks bench-defenses bench-gpu map reproduce reproduce-full data clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "fedlab needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev --group docs
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps byzfl # it would bring torchvision
	@touch $@

install: $(READY) ## create .venv and install fedlab with its tools

demo: $(READY) ## run the quickstart on Ray and print the path of its report last
	@$(BIN)/fedlab run quickstart

test: $(READY) ## run all tests, a file at a time on each of two cores
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: $(READY) ## run the reproductions that take minutes
	@$(BIN)/python -m pytest -m slow

test-cluster: $(READY) ## run what needs Ray clusters of several nodes, on this machine: minutes
	@$(BIN)/python -m pytest -m cluster

lint: $(READY) ## check style (ruff)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: $(READY) ## check types (mypy, strict)
	@$(BIN)/mypy

arrows: $(READY) ## check that imports run one way (import-linter)
	@$(BIN)/lint-imports

docs: $(READY) ## build the documentation into site/
	@$(BIN)/mkdocs build --strict --quiet && echo "site/index.html"

pages: $(READY) ## run the notebook and the gallery of the documentation again: minutes
	@$(BIN)/python docs/hooks/notebooks.py docs/notebooks/*.ipynb && $(BIN)/python docs/hooks/gallery.py

$(PEERS)/.ready: benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(PEERS)/bin/python -m pip install --quiet torch==2.13.0
	$(PEERS)/bin/python -m pip install --quiet --requirement benchmarks/peers.txt
	-$(PEERS)/bin/python -m pip install --quiet --no-deps breaching==0.1.2 # of its requirements, the benchmark's shim needs torch only
	@touch $@

bench-runtime: $(READY) $(PEERS)/.ready ## measure the runtime beside its peers; exits 1 when a bar is missed
	@$(BIN)/python -m benchmarks

bench-async: $(READY) ## measure asynchronous training beside an event loop; exits 1 when a bar is missed
	@$(BIN)/python -m benchmarks.asynchronous && $(BIN)/python -m benchmarks.document

bench: bench-runtime bench-attacks bench-defenses ## all benchmarks

bench-attacks: $(READY) $(PEERS)/.ready ## measure what attacks recover from real images; exits 1 when a bar is missed
	@$(BIN)/python -m benchmarks.attacks

bench-defenses: $(READY) ## measure what defenses cost, prove and leave to attackers; exits 1 when a bar is missed
	@$(BIN)/python -m benchmarks.defenses

bench-gpu: $(READY) ## measure one GPU: cohorts of pfl's CIFAR-10 shape, attacks; an error where there is none
	@$(BIN)/python -m benchmarks.gpu

map: $(READY) ## pre- against post-activation at the size of the literature: hours, on a GPU; needs `make data`
	@$(BIN)/python -m benchmarks.attacks.full_map

reproduce: $(READY) ## what papers claim, at a small size: within an hour; exits 1 when a bar is missed
	@$(BIN)/python -m reproductions

reproduce-full: $(READY) ## HyperFL and pFedHN at paper size: days, can be stopped and goes on; needs `make data`
	@$(BIN)/python -m reproductions hypernetworks_full

data: $(READY) ## fetch the data sets that are not bundled, with pinned hashes
	@for name in mnist fashion-mnist cifar-samples; do $(BIN)/fedlab data fetch $$name || exit $$?; done

clean: ## remove what the targets made, except runs/
	rm -rf $(VENV) $(PEERS) build dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
