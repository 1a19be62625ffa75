# `make` lists the commands. Each creates what it needs; all of them use the Python inside $(ENV), never another one.

# What a user may set: make reproduce SCENES="sim-sar path/to/scene.nc" SEEDS=5 JOBS=2 DEVICE=auto
# Empty means the default of the preset, which prsa/reproduce.py knows.
SCENES  ?=
SEEDS   ?=
JOBS    ?=
DEVICE  ?= auto
METHODS ?=
PYTHON  ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c $(PYTHON_OK) >/dev/null 2>&1 && echo $$p && break; done)

# A mistyped variable would start the default study without a word.
KNOWN   := SCENES SEEDS JOBS DEVICE METHODS PYTHON CONDA
UNKNOWN := $(strip $(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$(filter-out $(KNOWN),$v))))
ifneq ($(UNKNOWN),)
  $(error unknown variable $(UNKNOWN). Expected one of $(KNOWN))
endif

ENV     := .env
PY      := $(ENV)/bin/python
STAMP   := $(ENV)/.complete
# The locked torch has wheels for 3.11, so that one is looked for first; venv needs ensurepip (Debian: python3-venv).
PYTHON_OK := 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'
CONDA   := $(firstword $(shell command -v mamba 2>/dev/null) $(shell command -v conda 2>/dev/null))

# Notebooks name the kernel `prsa`, which exists only inside $(ENV); papermill and nbval are told it again. A notebook that
# says `python3` gets whichever kernel of that name is found first, often one without these packages.
KERNEL  := prsa
export JUPYTER_PREFER_ENV_PATH := 1
# Packages of the user outside the environment must not shadow the locked ones.
export PYTHONNOUSERSITE := 1
unexport PYTHONPATH

# What only maintainers run: speed, tuning, the finished search, the reference.
RECORD   = PYTHONPATH=tests $(PY) -m record
STUDY    = $(PY) -m prsa.reproduce --device '$(DEVICE)' $(if $(SCENES),--scenes $(SCENES)) \
           $(if $(SEEDS),--seeds '$(SEEDS)') $(if $(JOBS),--jobs '$(JOBS)') $(if $(METHODS),--methods $(METHODS))

# A folder that was moved is installed again: the kernel and the package are registered by their absolute path.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
  $(shell rm -f $(STAMP))
endif

.PHONY: help env quick reproduce test lab data bench tune research reference clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help:
	@echo "make env        install everything into $(ENV) (mamba, conda or venv), once"
	@echo "make quick      the study in small: one simulated scene, minutes; into results/quick"
	@echo "make reproduce  the whole study: every run, table, figure and notebook; into results"
	@echo "make test       unit tests, then every notebook with its defaults"
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make data       download and check public scenes, e.g. SCENES=\"houston2013 augsburg\""
	@echo "make bench      measure speed, memory, scaling and workers; into results/bench"
	@echo "make tune       choose every method's own setting again, on development scenes; results/tuning.csv"
	@echo "make research   repeat the search for PRSANet's configuration, on development scenes; results/research.csv"
	@echo "make reference  copy tables and measurements to results/reference and renew the README from them"
	@echo "make clean      remove $(ENV), results/quick and caches; finished runs of the full study stay"
	@echo
	@echo "Variables of quick and reproduce (default):"
	@echo "  SCENES   names or .nc files, space separated (three embedded scenes of each kind; quick: sim-sar)"
	@echo "  SEEDS    runs per scene and method (3; quick: 2)"
	@echo "  JOBS     processes at a time (one per core)"
	@echo "  DEVICE   auto, cpu, cuda or mps (auto)"
	@echo "  METHODS  methods to compare, space separated (those of the study; all: and everything compared with)"
	@echo "  TOGETHER yes or no: train the seeds of a method as one batched network (auto: on a CUDA device)"
	@echo "  CONDA, PYTHON  what makes the environment (mamba, else conda, else a Python; CONDA= takes the Python)"
	@echo "e.g. make reproduce SCENES=\"sim-sar path/to/scene.nc\" SEEDS=3 JOBS=2"

env: $(STAMP)
	@echo "The environment is ready: $(ENV)"

# The stamp is the last thing written, so an interrupted installation is started again, from nothing.
$(STAMP): requirements.lock environment.yml pyproject.toml
	@if [ -e $(ENV) ] && [ ! -e $(ENV)/pyvenv.cfg ] && [ ! -d $(ENV)/conda-meta ]; then \
	    echo "error: $(ENV) exists and is no Python environment. Fix: move it away." >&2; exit 2; fi
	@rm -rf $(ENV)
ifneq ($(CONDA),)
	@echo "Installing into $(ENV) with $(notdir $(CONDA)); this takes some minutes ..."
	@CONDA_ALWAYS_YES=true MAMBA_ALWAYS_YES=true $(CONDA) env create --quiet --prefix $(ENV) --file environment.yml
else
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c $(PYTHON_OK) 2>/dev/null; then \
	    echo "error: expected mamba, conda or Python 3.11 or newer with venv, got PYTHON='$(PYTHON)' and $$(python3 -V 2>&1 || echo no python3)." \
	         "Fix: install one of them, or name it: make env PYTHON=/path/to/python3.11" >&2; exit 2; fi
	@echo "Installing into $(ENV) with $(PYTHON) -m venv and pip; this takes some minutes ..."
	@$(PYTHON) -m venv $(ENV)
	@$(PY) -m pip install -qq --disable-pip-version-check -r requirements.lock
endif
	@$(PY) -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(PY) -m ipykernel install --sys-prefix --name $(KERNEL) --display-name "Python ($(KERNEL))" >/dev/null
	@printf '%s\n' "$(CURDIR)" > $@

quick: $(STAMP)
	@$(STUDY) --preset quick

reproduce: $(STAMP)
	@$(STUDY) --preset full

# Two calls: nbval in one process with the unit tests scatters cells. Results go to a folder of their own, so that a test
# neither uses nor changes the user's.
test: $(STAMP)
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && export PRSA_RESULTS="$$tmp" && \
	$(PY) -m pytest -q tests && \
	$(PY) -m pytest -q -p no:cacheprovider --nbval-lax --nbval-kernel-name $(KERNEL) --nbval-cell-timeout 300 notebooks

lab: $(STAMP)
	@$(PY) -m jupyterlab notebooks

data: $(STAMP)
	@$(PY) -m prsa.data.benchmarks $(SCENES)

# Measuring processes start from one that has loaded the package, and runpy would warn in each that the module is there already.
bench: $(STAMP)
	@PYTHONWARNINGS=ignore::RuntimeWarning:runpy $(RECORD).bench

tune: $(STAMP)
	@$(RECORD).tuning

research: $(STAMP)
	@$(RECORD).research

reference: $(STAMP)
	@$(RECORD).reference

clean:
	@rm -rf $(ENV) results/quick build *.egg-info .pytest_cache
	@find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +
	@find . -name .ipynb_checkpoints -not -path './.*' -prune -exec rm -rf {} +
