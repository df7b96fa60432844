# The few commands a person needs. Only Python 3.11+ and make have to be there; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo test test-all lint notebooks bench gpu-check install clean-demo
.DEFAULT_GOAL := help

help: ## Show what each command does
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Create .venv and install the project under constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("ovparts needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || { echo "Creating $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "Installing ovparts and its libraries into $(VENV) (PyTorch is large: a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

demo: $(INSTALLED) ## Run the whole workbook on the miniature: render, train, score, report (about 11 minutes on two cores)
	@$(BIN)/ovparts demo

test: $(INSTALLED) ## Lint and run the essential tests (about 10 minutes on two cores)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(INSTALLED) ## Run every test, the long ones too
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "slow or not slow"

lint: $(INSTALLED) ## Format the code and strip notebook outputs
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .
	@$(BIN)/nbstripout notebooks/*.ipynb

notebooks: $(INSTALLED) ## Open the workbook in JupyterLab
	@$(BIN)/jupyter lab --ServerApp.root_dir=. notebooks/00_start_here.ipynb

bench: $(INSTALLED) ## Measure speed, FLOPs and memory; appends rows to benchmarks/results
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,benchmark]'
	@$(BIN)/python benchmarks/run_all.py
	@$(BIN)/python benchmarks/metrics.py

gpu-check: ## Check everything on this machine's GPU, and its speed (8 minutes); needs torch but no installation
	@PYTHONPATH=.:$$PYTHONPATH $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu_check.py

clean-demo: ## Remove what the demo made
	@rm -rf outputs/miniature
