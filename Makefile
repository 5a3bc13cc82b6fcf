# What people do with this tree. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The first Python that is new enough and works: a version manager's stub can be on PATH and still fail.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3.14 python3; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1 \
	&& echo $$python && break; done)

# The environment is made again when its lock changes: the stamp carries the lock's checksum. (Its time says
# nothing: a checkout of another branch changes that.)
LOCK := requirements/dev.lock
STAMP := .venv/.stamp-$(firstword $(shell cksum < $(LOCK)))
BIN := .venv/bin
PY := $(BIN)/python
SOURCES := $(wildcard holdfast services deploy chaos loadtest tests examples docs/*.py)

QUICK := not kafka and not redis and not consul and not cluster and not browser and not tools

.PHONY: help run simulate chaos test check static format docs watch talk rules k8s-check k8s-server k8s-e2e wheel lock failures cluster cluster-mend cluster-stop bench bench-plane bench-check scaling load clean

help: ## list what there is
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 15

$(STAMP): | $(LOCK)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer, with venv, is needed (or: make PYTHON=/path)" >&2; exit 1; }
	@test ! -L .venv || { echo ".venv is a link and does not fit $(LOCK): it is somebody else's, and not cleared here" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	@touch $@

$(BIN)/holdfast: deploy/local/holdfast.sh $(STAMP)
	@install -m 755 $< $@

run: $(BIN)/holdfast ## start the cluster in one process, with the demo page on http://127.0.0.1:8080/
	@exec $(PY) -m holdfast.cli dev

simulate: $(STAMP) ## search SEEDS (10000) simulated runs of the whole cluster for a broken promise; resumes
	@exec $(PY) -m tests.simulation --seeds $(or $(SEEDS),10000)

test: static ## everything, on real servers that are found or installed
	@$(PY) -m deploy.prepare
	$(PY) -m pytest

check: static ## the quick inner loop: format, lint, types, import rules, tests on memory
	$(PY) -m pytest -q -m "$(QUICK)"

static: $(STAMP)
	$(BIN)/ruff format --check --quiet $(SOURCES)
	$(BIN)/ruff check --quiet $(SOURCES)
	$(BIN)/mypy --no-error-summary
	@checked=$$(PYTHONPATH=. $(BIN)/lint-imports --no-logo) || { echo "$$checked"; exit 1; }

format: $(STAMP) ## write the sources in the one format
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

docs: $(STAMP) ## write the pages that are generated
	PYTHONPATH=. $(PY) docs/generate.py

watch: $(STAMP) ## Prometheus and Alertmanager beside `make cluster`, its dashboards drawn; HURRY=1: alerts at once
	@exec $(PY) -m deploy.local.watch $(if $(HURRY),--hurry)

talk: $(STAMP) ## people who write to each other on the cluster of `make cluster`, until Ctrl-C
	@exec $(PY) -m deploy.local.talk

rules: $(STAMP) ## write the alert rules and dashboards that are generated
	$(PY) -m deploy.prometheus.generate
	$(PY) -m deploy.grafana.generate

k8s-check: $(STAMP) ## what is checked of deploy/ without a cluster: manifests, policies, rules, balancers, image
	$(PY) -m pytest -q tests/k8s tests/balancer/test_configuration.py tests/observe/test_rules.py

k8s-server: $(STAMP) ## the manifests held against a real API server; builds it first, some ten minutes, once
	HF_K8S_SERVER=1 $(PY) -m pytest -q tests/k8s/test_server.py

k8s-e2e: $(STAMP) ## all of it on a real Kubernetes of one node, under load; as root; first builds for (estimated) 40 minutes
	@exec $(PY) -m tests.k8s.e2e $(if $(ONLY),--only $(ONLY))

wheel: $(STAMP) ## build the distribution into dist/
	$(PY) -m hatchling build -t wheel

chaos: $(STAMP) ## a cluster of real parts under load, faults for MINUTES (30) by SEED, and what came through
	@exec $(PY) -m chaos --minutes $(or $(MINUTES),30) --brokers $(or $(BROKERS),3) $(if $(SEED),--seed $(SEED))

failures: $(STAMP) ## break a cluster in every way (NAMES: all) and draw what it looks like, into docs/failures.md
	$(PY) -m deploy.local.failures $(NAMES)

cluster: $(BIN)/holdfast ## real servers (BROKERS of Kafka: 1; BALANCER=1: HAProxy) and two of every service, until Ctrl-C
	@exec $(PY) -m deploy.local start --brokers $(or $(BROKERS),1) $(if $(BALANCER),--balancer)

cluster-mend: $(STAMP) ## start again what has ended of the cluster in another shell
	@$(PY) -m deploy.local mend

cluster-stop: $(STAMP) ## stop the cluster that another shell or --detach left running
	@$(PY) -m deploy.local stop

bench-plane: $(STAMP) ## what a connection and a delivery cost, beside the C floor, into docs/performance.md
	$(PY) -m loadtest.plane --runs $(or $(RUNS),3) --write
	$(PY) -m loadtest.slices --runs $(or $(RUNS),3) --write

bench: bench-plane ## that, and what a message costs on every path (CENTRIFUGO=/path: beside it), into docs/performance.md
	$(PY) -m loadtest.bench --runs $(or $(RUNS),3) --write
	$(PY) -m loadtest.lost --runs $(or $(RUNS),3) --write

bench-check: $(STAMP) ## the benchmark in short: fails when a ratio to the C floor has become worse
	$(PY) -m loadtest.check

scaling: $(STAMP) ## how costs go on as the work grows (SWEEPS: all), drawn, into docs/capacity.md
	nice -n 10 $(PY) -m loadtest.scaling $(SWEEPS) --runs $(or $(RUNS),3) --write

load: $(STAMP) ## run SCENARIO (chat) of loadtest/scenarios on a cluster of its own
	$(PY) -m loadtest run $(or $(SCENARIO),chat) --cluster

# The resolver lives in an environment of its own, for the moment: what it needs is not ours.
UV := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --no-annotate
lock: ## write requirements/*.lock from pyproject.toml and dev.in
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
	work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	$(PYTHON) -m venv "$$work" && "$$work/bin/pip" install --quiet --disable-pip-version-check uv; \
	cd requirements; \
	"$$work/bin/"$(UV) -o run.lock ../pyproject.toml; \
	"$$work/bin/"$(UV) -o tracing.lock --extra tracing ../pyproject.toml; \
	"$$work/bin/"$(UV) -o dev.lock --extra tracing ../pyproject.toml dev.in

clean: ## remove what can be made again
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
