# Every command of the project. Needs only Python 3.11 or newer with pip, and make; each target sets
# up .venv automatically, the first time and whenever pyproject.toml or constraints.txt has changed.

PYTHON ?= python3
# The oldest Python that is supported.
OLDEST := 3.11
# Where everything is installed, and the file that says which versions; empty: the newest ones.
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
ARGS ?=
SEED ?= 0
RUNS ?= 20
STEPS ?= 300
MINUTES ?= 1
# Processes that run tests: one more than the cores most machines have to give, since many tests wait.
WORKERS ?= 3

# Bytecode has a place of its own where it may not lie beside the code, as in many containers: each
# process that runs tests would compile them all again, which takes 8 s.
ifdef PYTHONDONTWRITEBYTECODE
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX ?= $(CURDIR)/.bytecode_cache
endif

BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -q
# No example of hypothesis fails for being slow, since the machine is busy; and all runs have the same.
EXAMPLES := ci
MANY := $(PYTEST) -n $(WORKERS) --dist worksteal --hypothesis-profile=$(EXAMPLES)
SERVE_READY := $(VENV)/.ready-to-serve
DEVELOP_READY := $(VENV)/.ready-to-develop

.DEFAULT_GOAL := help
.PHONY: help serve test fast newest newest-ready installed lint fmt types cover seeds sdks \
  simulate speed ui-scale differ mutate fuzz prove prove-nodes vendor screenshots clients constraints docs man \
  deploy-check release-check

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'Arguments are handed on: make serve ARGS="--in-memory", make test ARGS="-k name".'

serve: $(SERVE_READY) ## Start the server
	@exec $(BIN)/python -m troth serve $(ARGS)

# Where tests with a marker are: to collect all others too would take a quarter of a minute.
MARKED = $$(grep -rl --include='test_*.py' 'mark\.$(1)' tests)

# Status 5 says that none was chosen; that is wrong only if it is so each time. What takes longest to
# prepare, once on a machine, is begun beside the first tests.
test: $(DEVELOP_READY) ## Run the tests, all but what make seeds and make sdks add
	@$(if $(ARGS),,nice -n 10 $(BIN)/python -m tests.sdks.environments </dev/null >/dev/null 2>&1 &)
	@worst=5; note() { case $$worst,$$1 in 5,* | 0,[!05]*) worst=$$1 ;; esac; }; \
	  echo '-- tests, $(WORKERS) at a time'; \
	  $(MANY) -m 'not alone and not own_core and not sdks' $(ARGS); \
	  note $$?; \
	  echo '-- tests that measure a core or are timed, two at a time'; \
	  $(PYTEST) -n 2 --dist worksteal -m 'own_core and not scale' $(or $(ARGS),$(call MARKED,own_core)); \
	  note $$?; \
	  echo '-- tests that measure time, one after the other'; \
	  $(PYTEST) -m 'alone and not scale' $(or $(ARGS),$(call MARKED,alone)); \
	  note $$?; exit $$worst

FAST := not alone and not own_core and not slow
fast: $(DEVELOP_READY) ## Run the tests that are neither slow nor measure time
	@echo '-- fast tests, $(WORKERS) at a time'; \
	  $(MANY) -m '$(FAST)' $(LEFT_OUT) $(ARGS)

# Its environment is always a new one: a new version of a library is what this is to find.
newest-ready:
	@rm -rf .venv-newest
	@python=$$($(PYTHON) -m tests.release.pythons) && echo "with $$python" \
	  && $(MAKE) --no-print-directory .venv-newest/.ready-to-develop \
	    VENV=.venv-newest CONSTRAINTS= PYTHON="$$python"

# What reads this repository's files says the same with any Python, and the first examples say what
# the others would.
READERS := deploy docs mutation test_layout.py test_tidy.py

# With IS_READY=1 the environment was just made. Without it there is no Python to make another with.
newest: $(if $(IS_READY),,newest-ready) ## Run fast tests with the newest Python of this machine and the newest libraries
	@$(MAKE) --no-print-directory fast VENV=.venv-newest CONSTRAINTS= PYTHON=false \
	  FAST='not alone and not own_core and (newest or not slow)' EXAMPLES=few \
	  LEFT_OUT='$(addprefix --ignore=tests/,$(READERS))'

installed: $(DEVELOP_READY) ## Build sdist and wheel, install that and run some tests with it
	@$(BIN)/python -m tests.release.installed $(ARGS)

lint: $(DEVELOP_READY) ## Check style and formatting
	@$(BIN)/ruff check --quiet $(ARGS)
	@$(BIN)/ruff format --check --quiet $(ARGS) || { echo 'Not formatted: run "make fmt".'; exit 1; }

fmt: $(DEVELOP_READY) ## Format the code and mend what can be mended by itself
	@$(BIN)/ruff check --fix --quiet $(ARGS)
	@$(BIN)/ruff format --quiet $(ARGS)

types: $(DEVELOP_READY) ## Check types, those of the web UI with npm
	@$(BIN)/mypy $(ARGS)
	@$(BIN)/python -m tests.ui.tools types

# Each room's own tests hold what it does, so no others are run: the simulation, the model and the
# endpoints that once counted too add a few branches in a thousand and take twice as long. The clock's
# tests are entries of the catalogue. Tests that measure a core would measure the measuring.
COVERED_BY := $(addprefix tests/,core shards persistence catalogue/test_time.py)

cover: $(DEVELOP_READY) ## Check that their tests run 95 % of core/, shards/ and persistence/ (some minutes)
	@$(MANY) -p pytest_cov --cov=troth.core --cov=troth.shards --cov=troth.persistence --cov-branch \
	  --cov-report=term-missing:skip-covered --cov-report=json:.coverage.json \
	  -m 'not alone and not own_core' $(COVERED_BY) $(ARGS)
	@$(BIN)/python -m tests.helpers.covered .coverage.json

# What make test leaves out; make prove runs these too.
seeds: $(DEVELOP_READY) ## Run the random tests with all their seeds (some minutes)
	@TESTS_SEEDS=all $(PYTEST) -n $(WORKERS) --dist worksteal -m 'seeds and not alone and not own_core' $(ARGS)

sdks: $(DEVELOP_READY) ## Run every workflow and suite with every published SDK (some minutes)
	@$(PYTEST) -n $(WORKERS) --dist worksteal -m 'not alone' tests/sdks tests/clients $(ARGS)

simulate: STEPS = 800
simulate: GROUPS = 1
simulate: $(DEVELOP_READY) ## Simulate the server with faults: SEED=0 RUNS=20 STEPS=800 GROUPS=1 (0: by seed)
	@$(BIN)/python -m tests.simulation --seed $(SEED) --runs $(RUNS) --steps $(STEPS) --groups $(GROUPS) $(ARGS)

differ: $(DEVELOP_READY) ## Hold the server against the specification's model: SEED=0 RUNS=20 STEPS=300
	@$(BIN)/python -m tests.model --seed $(SEED) --runs $(RUNS) --steps $(STEPS) $(ARGS)

speed: HISTORY = $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/troth-speed.jsonl
speed: $(DEVELOP_READY) ## Measure, add to a history and draw it (two minutes): HISTORY=FILE
	@mkdir -p $(dir $(HISTORY))
	@$(BIN)/troth bench create read batch step workflow -c 64 -n 3 -d 2 --history $(HISTORY)
	@$(BIN)/troth bench history --history $(HISTORY) --html $(HISTORY:.jsonl=.html) --fail-if-worse

# The directory is kept, since filling it takes 10 to 30 minutes.
SCALE_STORE = /tmp/troth-ui-scale
ui-scale: $(DEVELOP_READY) ## What answers and pages cost with 2,000,000 promises: SCALE_STORE=DIRECTORY
	@test -e $(SCALE_STORE)/troth.json || $(BIN)/python -m tests.helpers.fill_store $(SCALE_STORE) \
		--completed 1500000 --pending 260000 --tasks 150000 --workflows 89500 --locks 100000 --tree 500
	@TROTH_SCALE_STORE=$(SCALE_STORE) $(PYTEST) -s tests/http/questions/test_scale.py \
	  tests/http/bulk/test_beside_clients.py tests/ui/test_budgets.py tests/ui/test_walks.py $(ARGS)

mutate: $(DEVELOP_READY) ## Plant every known fault and see which test notices (twelve minutes)
	@$(BIN)/python -m tests.mutation $(ARGS)

fuzz: $(DEVELOP_READY) ## Feed the parsers what is nearly right, each so long: SEED=0 MINUTES=1
	@$(BIN)/python -m tests.fuzz --seed $(SEED) --minutes $(MINUTES) $(ARGS)

# Each part says its seeds; make prove SEED=1000 runs others.
prove: seeds sdks ## Run all proofs long, make seeds and make sdks too (over an hour): SEED=0
	@$(BIN)/python -m tests.simulation --seed $(SEED) --runs 300 --steps 2000 --quiet
	@$(BIN)/python -m tests.simulation --seed $(SEED) --runs 300 --groups 0 --quiet
	@$(BIN)/python -m tests.model --seed $(SEED) --runs 300 --steps 500
	@$(BIN)/python -m tests.fuzz --seed $(SEED) --minutes 1
	@$(BIN)/python -m tests.proofs.kill --rounds 20 --seed $(SEED)
	@$(BIN)/python -m tests.proofs.kill --processes 3 --rounds 20 --seed $(SEED)
	@$(BIN)/python -m tests.proofs.functions --tasks 1000 --nodes 4 --seed $(SEED)
	@$(BIN)/python -m tests.proofs.timing
	@$(BIN)/python -m tests.proofs.conversion --seed $(SEED)
	@$(BIN)/python -m tests.mutation

# Nodes that share the groups of a cluster; the second half needs root.
prove-nodes: $(DEVELOP_READY) ## Kill nodes of clusters and cut them off, with both engines (40 minutes): SEED=0
	@for engine in postgres nats; do for more in 1 2 3; do $(BIN)/python -m tests.proofs.cluster_kill \
	--engine $$engine --nodes 3 --groups 4 --shared --rounds 10 --seed $$(($(SEED) + more)) || exit 1; done; done
	@for engine in postgres nats; do $(BIN)/python -m tests.proofs.partition \
	--engine $$engine --nodes 3 --groups 3 --shared --seed $(SEED) --limit-s 15 || exit 1; done

constraints: ## Write the newest versions of all libraries to constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(OLDEST)" and "Pin with the \
	oldest Python that is supported: make constraints PYTHON=python$(OLDEST)")'
	@rm -rf .venv-constraints
	@$(MAKE) --no-print-directory .venv-constraints/.ready-to-develop VENV=.venv-constraints CONSTRAINTS=
	@{ echo '# Made by "make constraints" with Python $(OLDEST): what make serve, make test and CI install.'; \
	   .venv-constraints/bin/python -m pip freeze --exclude-editable; } > constraints.txt
	@rm -rf .venv-constraints
	@git --no-pager diff --stat constraints.txt

vendor: $(DEVELOP_READY) ## Make the vendored file of the web UI again, for new versions (npm)
	@$(BIN)/python -m tests.ui.tools vendor

screenshots: $(DEVELOP_READY) ## Make the pictures of the web UI in docs/pictures again (two minutes, Chromium)
	@$(BIN)/python -m tests.ui.pictures $(ARGS)

clients: $(DEVELOP_READY) ## Generate clients with tools that need Go and Java, and use them
	@$(BIN)/python -m tests.clients.generators

docs: $(DEVELOP_READY) ## Build the documentation into dist/docs; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet && echo dist/docs/index.html

man: $(SERVE_READY) ## Make the manual page: dist/troth.1
	@mkdir -p dist && $(BIN)/python -m troth manual > dist/troth.1 && echo 'man -l dist/troth.1'

deploy-check: $(DEVELOP_READY) ## Carry out the Containerfile in a clean Debian root (root, debootstrap)
	@$(BIN)/python -m tests.deploy $(ARGS)

release-check: $(DEVELOP_READY) ## Check that this commit can be released
	@$(BIN)/python -m tests.release $(ARGS)

# The package itself is installed in place, so only other requirements need another install.
$(SERVE_READY): pyproject.toml $(CONSTRAINTS)
	@$(call install,.,to run the server)
	@touch $@

$(DEVELOP_READY): pyproject.toml $(CONSTRAINTS)
	@$(call install,.[dev],to develop)
	@touch $(SERVE_READY) $@

# Debian's Python may come without ensurepip; then the pip that is there installs another one. What
# builds the package is constrained too: by the first variable up to pip 25.2, then by the second.
define install
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Troth needs Python 3.11 or newer.")'
	echo 'Setting up $(VENV) $(2) (a minute or so, once) …'
	$(BIN)/python -m pip --version >/dev/null 2>&1 \
	  || $(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 \
	  || { $(PYTHON) -m venv --clear --without-pip $(VENV) \
	       && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(if $(CONSTRAINTS),PIP_CONSTRAINT=$(CONSTRAINTS) PIP_BUILD_CONSTRAINT=$(CONSTRAINTS)) \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -e '$(1)'
endef
