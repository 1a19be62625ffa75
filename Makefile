# `make` lists the commands. Each creates what it needs; all of them use the Python inside $(ENV), never another one.

# What a user may set: make reproduce SCENES="sim-sar path/to/scene.nc" SEEDS=5 JOBS=2 DEVICE=auto
# Empty means the default of the preset, which prsa/reproduce.py knows.
SCENES  ?=
SEEDS   ?=
JOBS    ?=
DEVICE  ?= auto
METHODS ?=
PORT    ?=
CLUSTER ?=
FILE    ?=
N       ?= 5
# Recipes read it as "$$SCENES": a path may hold spaces, parentheses and quotes.
export SCENES CLUSTER FILE
PYTHON  ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c $(PYTHON_OK) >/dev/null 2>&1 && echo $$p && break; done)

# A mistyped variable would start the default study without a word.
KNOWN   := SCENES SEEDS JOBS DEVICE METHODS PORT CLUSTER FILE N PYTHON CONDA
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

# Notebooks name the kernel `prsa`, which comes with the package; papermill and nbval are told it again. A notebook that
# says `python3` gets whichever kernel of that name is found first, often one without these packages.
KERNEL  := prsa
export JUPYTER_PREFER_ENV_PATH := 1
# Packages of the user outside the environment must not shadow the locked ones.
export PYTHONNOUSERSITE := 1
unexport PYTHONPATH

# What only maintainers run: speed, tuning, the reference, the campaign.
RECORD   = PYTHONPATH="$$PWD/tests" $(PY) -m record
STUDY    = $(PY) -m prsa.reproduce --device '$(DEVICE)' $(if $(SCENES),--scenes "$$SCENES") \
           $(if $(SEEDS),--seeds '$(SEEDS)') $(if $(JOBS),--jobs '$(JOBS)') $(if $(METHODS),--methods $(METHODS)) \
           $(if $(CLUSTER),--cluster "$$CLUSTER")

# A folder that was moved is installed again: scripts and the package are registered by their absolute path.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
  $(shell rm -f $(STAMP))
endif

.PHONY: help env quick reproduce demo slides status pack unpack verify test lab course data format lint bench tune \
        research reference teaching cluster campaign machines clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help:
	@echo "make env        install everything into $(ENV) (mamba, conda or venv), once"
	@echo "make demo       one figure within a minute: which sensor is left behind; into results/figures"
	@echo "make quick      the study in small: one simulated scene, minutes; into results/quick"
	@echo "make reproduce  the whole study: every run, table, figure and notebook; into results"
	@echo "make status     runs, tables and figures of the whole study: there, missing (with the time they take) or stale"
	@echo "make pack       the finished runs in one file, results/runs.zip; FILE= names another"
	@echo "make unpack     take in the runs of such a file, after checking all of it; FILE= names it"
	@echo "make verify     train N=5 random finished runs again and compare every number"
	@echo "make test       unit tests, then every notebook with its defaults"
	@echo "make lab        open your own copy of the notebooks (work/) in JupyterLab; PORT=8888 chooses the port"
	@echo "make course     exercises for a class: student copies, instructor copies and a zip; into results/course"
	@echo "make slides     notebooks 00, 06 and 11 as slides for a browser, without a network; into results/slides"
	@echo "make data       download and check public scenes, e.g. SCENES=\"houston2013 augsburg\""
	@echo "make format     bring the code into its form (ruff)"
	@echo "make lint       say what is wrong with the code (ruff), as make test does"
	@echo "make bench      measure speed, memory, scaling, workers and the parts of a run; into results/bench"
	@echo "make tune       choose every method's own setting again, on development scenes; results/tuning.csv"
	@echo "make research   repeat the finished search for PRSANet's configuration by the code that made it"
	@echo "make reference  copy tables and measurements to results/reference and renew both README files from them"
	@echo "make teaching   train the runs to learn from anew (an hour); results/reference/teaching"
	@echo "make campaign   kill, interrupt, corrupt and fill the disk; results/campaign.csv"
	@echo "make cluster    what a Dask cluster costs beside the pool of one machine; results/bench/cluster.csv"
	@echo "make machines   the same runs with other thread counts and instruction sets; results/machines.csv"
	@echo "make clean      remove $(ENV), results/quick and caches; finished runs of the full study stay"
	@echo
	@echo "Variables of quick, reproduce and status (default):"
	@echo "  SCENES   names or .nc files, space separated (three embedded scenes of each kind; quick: sim-sar)"
	@echo "  SEEDS    runs per scene and method (3; quick: 2)"
	@echo "  JOBS     processes at a time (one per core)"
	@echo "  DEVICE   auto, cpu, cuda or mps (auto)"
	@echo "  CLUSTER  where to train: local, tcp://host:8786 or a dask-jobqueue YAML file (processes of this machine)"
	@echo "  METHODS  methods to compare, space separated (those of the study; all: and everything compared with)"
	@echo "  CONDA, PYTHON  what makes the environment (mamba, else conda, else a Python; CONDA= takes the Python)"
	@echo "e.g. make reproduce SCENES=\"sim-sar path/to/scene.nc\" SEEDS=3 JOBS=2"

env: $(STAMP)
	@echo "The environment is ready: $(ENV)"

# The stamp is the last thing written, so an interrupted installation is started again, from nothing. One that is complete
# is brought up to date where it is, because another command may be running in it.
$(STAMP): requirements.lock environment.yml pyproject.toml
	@if [ -e $(ENV) ] && [ ! -e $(ENV)/pyvenv.cfg ] && [ ! -d $(ENV)/conda-meta ]; then \
	    echo "error: $(ENV) exists and is no Python environment. Fix: move it away." >&2; exit 2; fi
	@[ -e $@ ] || rm -rf $(ENV)
ifneq ($(CONDA),)
	@[ -e $@ ] || { echo "Installing into $(ENV) with $(notdir $(CONDA)); this takes some minutes ..."; \
	    CONDA_ALWAYS_YES=true MAMBA_ALWAYS_YES=true $(CONDA) env create --quiet --prefix $(ENV) --file environment.yml; }
else
	@if [ ! -e $@ ] && ! $(PYTHON) -c $(PYTHON_OK) 2>/dev/null; then \
	    echo "error: expected mamba, conda or Python 3.11 or newer with venv, got PYTHON='$(PYTHON)'" \
	         "and $$(python3 -V 2>&1 || echo no python3)." \
	         "Fix: install one of them, or name it: make env PYTHON=/path/to/python3.11" >&2; exit 2; fi
	@[ -e $@ ] || { echo "Installing into $(ENV) with $(PYTHON) -m venv and pip; this takes some minutes ..."; \
	    $(PYTHON) -m venv $(ENV); }
endif
	@$(PY) -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(PY) -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@pwd -P > $@

demo: $(STAMP)
	@$(PY) -m prsa.lab demo --device '$(DEVICE)' $(if $(SCENES),--scenes "$$SCENES") $(if $(JOBS),--jobs '$(JOBS)')

slides: $(STAMP)
	@$(PY) -m prsa.lab slides $(if $(JOBS),--jobs '$(JOBS)')

quick: $(STAMP)
	@$(STUDY) --preset quick

reproduce: $(STAMP)
	@$(STUDY) --preset full

status: $(STAMP)
	@$(STUDY) --preset full --status

pack: $(STAMP)
	@$(STUDY) --preset full --pack "$${FILE:-results/runs.zip}"

unpack: $(STAMP)
	@$(PY) -m prsa.reproduce --unpack "$$FILE"

verify: $(STAMP)
	@$(STUDY) --preset full --verify '$(N)'

# One call for unit tests and notebooks, each file in one of two processes: tests/conftest.py says which come first. The
# exercises are run by tests/test_course.py. Results go to a folder of their own, so that a test neither uses nor changes
# the user's. One thread each: two processes share two cores.
test: $(STAMP)
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT INT TERM && export PRSA_RESULTS="$$tmp" OMP_NUM_THREADS=1 && \
	$(PY) -m pytest -q -n '$(or $(JOBS),2)' --dist loadfile --no-loadscope-reorder --nbval-lax \
	    --nbval-kernel-name $(KERNEL) --nbval-cell-timeout 300 --ignore=notebooks/course tests notebooks

# A copy, because JupyterLab saves outputs into what it opens, and the committed notebooks have none.
lab: $(STAMP)
	@$(PY) -m prsa.lab $(if $(PORT),--port '$(PORT)')

course: $(STAMP)
	@$(PY) -m prsa.course

data: $(STAMP)
	@set -f; $(PY) -m prsa.data.benchmarks $$SCENES

format: $(STAMP)
	@$(PY) -m ruff check --quiet --fix .; $(PY) -m ruff format .

lint: $(STAMP)
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

# Processes that measure start from one with the package loaded; runpy would warn in each that the module is there already.
bench: $(STAMP)
	@PYTHONWARNINGS=ignore::RuntimeWarning:runpy $(RECORD).bench

tune: $(STAMP)
	@$(RECORD).tuning "$$CLUSTER"

# The search is finished, and what it tried and dropped is no longer in the package: the commit that holds it repeats it,
# in a worktree with an environment of its own (about as long as make reproduce).
SEARCH  := fa52b34
research:
	@tmp=$$(mktemp -d) && trap 'git worktree remove --force "$$tmp/prsa" 2>/dev/null; rm -rf "$$tmp"' EXIT INT TERM && \
	git worktree add --quiet --detach "$$tmp/prsa" $(SEARCH) && unset PRSA_RESULTS && $(MAKE) -C "$$tmp/prsa" research && \
	mkdir -p results && cp "$$tmp/prsa/results/research.csv" results/

reference: $(STAMP)
	@$(RECORD).reference

teaching: $(STAMP)
	@$(RECORD).teaching $(JOBS)

cluster: $(STAMP)
	@PYTHONWARNINGS=ignore::RuntimeWarning:runpy $(RECORD).cluster

campaign: $(STAMP)
	@$(RECORD).campaign

machines: $(STAMP)
	@$(RECORD).machines

clean:
	@rm -rf $(ENV) results/quick build *.egg-info .pytest_cache .ruff_cache
	@find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +
	@find . -name .ipynb_checkpoints -not -path './.*' -prune -exec rm -rf {} +
