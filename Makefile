# Every command of the project. Needs only Python 3.11 or newer with pip, and make; each target sets
# up .venv by itself, the first time and whenever pyproject.toml has changed.

PYTHON ?= python3
ARGS ?=
SEED ?= 0
RUNS ?= 20
STEPS ?= 300
MINUTES ?= 1
# Processes that run tests: one more than the cores most machines have to give, since many tests wait.
WORKERS ?= 3

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -q
SERVE_READY := .venv/.ready-to-serve
DEVELOP_READY := .venv/.ready-to-develop

.DEFAULT_GOAL := help
.PHONY: help serve test lint fmt types cover simulate differ mutate fuzz prove

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'Arguments are handed on: make serve ARGS="--in-memory", make test ARGS="-k name".'

serve: $(SERVE_READY) ## Start the server
	@exec $(BIN)/python -m troth serve $(ARGS)

# Status 5 says that none was chosen; that is wrong only if it is so both times.
test: $(DEVELOP_READY) ## Run all tests
	@echo '-- tests, $(WORKERS) at a time'; side_by_side=0; alone=0; \
	  $(PYTEST) -n $(WORKERS) --dist worksteal -m 'not alone' $(ARGS) || side_by_side=$$?; \
	  echo '-- tests that measure time, one after the other'; \
	  $(PYTEST) -m alone $(ARGS) || alone=$$?; \
	  case $$side_by_side,$$alone in 0,0 | 0,5 | 5,0) ;; 0,*) exit $$alone ;; *) exit $$side_by_side ;; esac

lint: $(DEVELOP_READY) ## Check style and formatting
	@$(BIN)/ruff check --quiet $(ARGS)
	@$(BIN)/ruff format --check --quiet $(ARGS) || { echo 'Not formatted: run "make fmt".'; exit 1; }

fmt: $(DEVELOP_READY) ## Format the code and mend what can be mended by itself
	@$(BIN)/ruff check --fix --quiet $(ARGS)
	@$(BIN)/ruff format --quiet $(ARGS)

types: $(DEVELOP_READY) ## Check types
	@$(BIN)/mypy $(ARGS)

# These tests need no server of their own; what a test of HTTP alone would reach counts as missed.
COVERED_BY := $(addprefix tests/,core shards persistence simulation model catalogue fuzz)

cover: $(DEVELOP_READY) ## Check that the tests run 95 % of core/, shards/ and persistence/ (some minutes)
	@$(PYTEST) --cov=troth.core --cov=troth.shards --cov=troth.persistence --cov-branch \
	  --cov-report=term-missing:skip-covered --cov-report=json:.coverage.json $(COVERED_BY) $(ARGS)
	@$(BIN)/python -m tests.helpers.covered .coverage.json

simulate: STEPS = 800
simulate: $(DEVELOP_READY) ## Simulate the server with faults: SEED=0 RUNS=20 STEPS=800
	@$(BIN)/python -m tests.simulation --seed $(SEED) --runs $(RUNS) --steps $(STEPS) $(ARGS)

differ: $(DEVELOP_READY) ## Hold the server against the specification's model: SEED=0 RUNS=20 STEPS=300
	@$(BIN)/python -m tests.model --seed $(SEED) --runs $(RUNS) --steps $(STEPS) $(ARGS)

mutate: $(DEVELOP_READY) ## Plant every known fault and see which test notices (twelve minutes)
	@$(BIN)/python -m tests.mutation $(ARGS)

fuzz: $(DEVELOP_READY) ## Feed the parsers what is nearly right, each so long: SEED=0 MINUTES=1
	@$(BIN)/python -m tests.fuzz --seed $(SEED) --minutes $(MINUTES) $(ARGS)

# Each part says its seeds; make prove SEED=1000 runs others.
prove: $(DEVELOP_READY) ## Run all proofs long (an hour): SEED=0
	@$(BIN)/python -m tests.simulation --seed $(SEED) --runs 300 --steps 2000 --quiet
	@$(BIN)/python -m tests.model --seed $(SEED) --runs 300 --steps 500
	@$(BIN)/python -m tests.fuzz --seed $(SEED) --minutes 1
	@$(BIN)/python -m tests.proofs.kill --rounds 20 --seed $(SEED)
	@$(BIN)/python -m tests.proofs.functions --tasks 1000 --nodes 4 --seed $(SEED)
	@$(BIN)/python -m tests.proofs.timing
	@$(BIN)/python -m tests.mutation

# The package itself is installed in place, so only a changed pyproject.toml needs another install.
$(SERVE_READY): pyproject.toml
	@$(call install,.,to run the server)
	@touch $@

$(DEVELOP_READY): pyproject.toml
	@$(call install,.[dev],to develop)
	@touch $(SERVE_READY) $@

# Debian's Python may come without ensurepip; then the pip that is there installs another into .venv.
define install
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Troth needs Python 3.11 or newer.")'
	echo 'Setting up .venv $(2) (a minute or so, once) …'
	$(BIN)/python -m pip --version >/dev/null 2>&1 \
	  || $(PYTHON) -m venv --clear .venv >/dev/null 2>&1 \
	  || { $(PYTHON) -m venv --clear --without-pip .venv \
	       && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -e '$(1)'
endef
