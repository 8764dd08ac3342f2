# make demo   installs, trains on generated portraits, runs ten notebooks, ends with the path of the report
# make report makes the tables and figures of reports/$(PROFILE) again from its score files (PROFILE=study-ff-like)
# make hours  trains PROFILES="one another" in the background, CORES=1 at a time, in a clone of this commit; the log is .hours/log.txt
# make test   the whole test suite
# make test-paper FILE=dfnb/papers/mine.py   whether a paper's file keeps the contract (docs/add-a-paper.md)
# make test-golden   all golden numbers of the released codes, more than make test compares (GOLDEN=a folder of scripts/golden.py)
# make test-gpu   profiles, killed trainings, maps and golden values on a GPU; skipped without one
# make lab    JupyterLab at the first notebook: copies in lab/, which git ignores, are yours to change
# make book   the site, in docs/_build/html, from the committed notebooks and reports; executes nothing
# make test-lab   every notebook by Run All in JupyterLab, in headless chromium (NOTEBOOK=02 one of them)
# make test-release   environment.yml installed into an empty environment; fetches several GB
# make test-slurm   the smoke profile on a Slurm of one node beside a local run; root, slurm-wlm and munge
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROFILE ?= demo
GOLDEN ?= tests/golden
NEEDED_GB := 8
.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE  # every notebook is a new process: importing torch uncompiled costs it seconds
# uv opens so many files at once that it fails where only 256 are allowed
export UV_CONCURRENT_DOWNLOADS := 8
export UV_CONCURRENT_BUILDS := 2
export UV_CONCURRENT_INSTALLS := 2

.PHONY: help demo report hours book test test-paper test-golden test-gpu test-lab test-slurm test-release lab lint lock
help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(VENV)/.installed
	@$(BIN)/dfnb run $(PROFILE)

report: $(VENV)/.installed
	@$(BIN)/dfnb report $(PROFILE)

hours: $(VENV)/.installed
	@mkdir -p .hours
	@setsid nohup $(BIN)/python scripts/train_in_background.py $(PROFILES) $(if $(CORES),--cores $(CORES)) >> .hours/log.txt 2>&1 < /dev/null &

book: $(VENV)/.installed
	@$(BIN)/uv pip install -q --python $(BIN)/python -r pyproject.toml --extra book -c requirements.lock
	@$(BIN)/sphinx-build -q -W --keep-going -c docs/site . docs/_build/html
	@echo "the site begins at docs/_build/html/index.html"

# a thread that spins while it waits for another takes the processor from the test beside it: four times as slow
test: $(VENV)/.installed
	@OMP_WAIT_POLICY=passive OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder

test-paper: $(VENV)/.installed
	@DFNB_PAPER=$(abspath $(FILE)) $(BIN)/python -m pytest tests/test_paper.py

test-golden: $(VENV)/.installed
	@DFNB_GOLDEN=$(abspath $(GOLDEN)) $(BIN)/python -m pytest tests/test_golden.py

test-gpu: $(VENV)/.installed
	@$(BIN)/python -m pytest tests/gpu -rs

test-lab: $(VENV)/.installed
	@$(BIN)/uv pip install -q --python $(BIN)/python -r pyproject.toml --extra test-lab -c requirements.lock
	@$(BIN)/python -m pytest tests/lab -k "$(NOTEBOOK)"

test-slurm: $(VENV)/.installed
	@$(BIN)/uv pip install -q --python $(BIN)/python -r pyproject.toml --extra slurm -c requirements.lock
	@$(BIN)/python -m pytest tests/slurm

test-release: $(VENV)/.installed
	@$(BIN)/python -m pytest tests/release

# JupyterLab saves what is executed: in notebooks/ git would see it as changes, and a pull as conflicts
lab: $(VENV)/.installed
	@mkdir -p lab
	@for file in notebooks/*.ipynb; do \
	  copy=lab/$${file##*/}; \
	  if [ ! -e $$copy ]; then cp $$file $$copy; \
	  elif [ $$file -nt $$copy ]; then echo "$$file is newer than $$copy; delete the copy to get it anew"; fi; \
	done
	@$(BIN)/jupyter lab --allow-root --ServerApp.root_dir=. lab/00_start_here.ipynb

lint: $(VENV)/.installed
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

# make lock   resolve requirements.lock again
lock:
	@$(BIN)/uv pip compile --universal --python-version 3.11 --extra test --extra book --no-header -q pyproject.toml -o requirements.lock

# the extra test has all that is needed to prepare, to train and to execute notebooks
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is older; run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@free=$$(df -Pk . | awk 'NR==2 {print int($$4 / 1048576)}'); [ "$$free" -ge $(NEEDED_GB) ] || \
	  { echo "$(NEEDED_GB) GB of free disk are needed to install, $$free GB are free in $$(pwd); free some and run again"; exit 1; }
	@[ -x $(BIN)/python ] || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@[ -x $(BIN)/uv ] || { echo "installing uv"; $(BIN)/python -m pip install -q --disable-pip-version-check uv; }
	@echo "installing requirements.lock (several GB, once)"
	@$(BIN)/uv pip install -q --python $(BIN)/python -r pyproject.toml --extra test -c requirements.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@
