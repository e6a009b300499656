# Two commands are enough: `make demo` and `make test`. Everything they need they install.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Every process would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick fuzz install lint types chaos chaos-all bench bench-oltp lock audit sbom clean

demo: $(READY)
	$(BIN)/rivet-fleet demo

# Two more than the two cores it is made for: much of a fault is waiting.
TESTERS ?= 4

test: $(READY) .tools/.ready
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder

# For the edit loop, about a minute: every rule, seam and pure decision, every removed guard, and a
# campaign from each engine.
QUICK := tests/house tests/conformance tests/unit tests/integration/test_mutants.py \
    tests/integration/test_cli.py tests/integration/test_mysql_cli.py

quick: $(READY) .tools/.ready
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile $(QUICK)

# The same properties with other examples each time, and more of them where that is cheap.
fuzz: $(READY) .tools/.ready
	HYPOTHESIS_PROFILE=long RIVET_FLEET_TEST_SEED=$$(date +%s) $(BIN)/python -m pytest -n $(TESTERS) --dist loadfile \
	    -m "soak or not soak" --hypothesis-profile fuzz tests/property tests/conformance tests/unit

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

# Until you stop it; `make chaos SOURCE=mariadb STATE=postgres DESTINATION=s3`.
SOURCE ?= postgres
STATE  ?= sqlite
DESTINATION ?= local

chaos: $(READY) .tools/.ready
	$(BIN)/python -m chaos.kill_loop --seconds 0 --source $(SOURCE) --state $(STATE) \
	    --destination $(DESTINATION)

# Every scenario over every source and state: an hour or two.
chaos-all: $(READY) .tools/.ready
	$(BIN)/python -m pytest chaos -m "soak or not soak"

bench: $(READY)
	$(BIN)/python -m bench

# Six minutes: what an application feels while its database is extracted.
bench-oltp: $(READY) .tools/.ready
	$(BIN)/python -m bench.oltp --write-docs

# The program alone, from the locks and this folder: `make install PREFIX=/opt/rivet-fleet`, with what object
# stores need: `make install PREFIX=… EXTRAS='s3 azure'`.
install:
	PYTHON='$(PYTHON)' scripts/install '$(PREFIX)' $(EXTRAS)

# What the locks say they were made of: `make lock` keeps the versions, `make lock UPGRADE=--upgrade` does not.
UPGRADE ?=
COMPILE  = .tools/uv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
    --no-emit-index-url $(UPGRADE)

STORES   = s3 gcs azure

lock: .tools/uv/.ready
	$(COMPILE) pyproject.toml -o requirements.lock
	$(COMPILE) --extra demo --extra test $(STORES:%=--extra %) pyproject.toml -o requirements-dev.lock
	for store in $(STORES); do \
	    $(COMPILE) --extra $$store -c requirements-dev.lock pyproject.toml -o requirements-$$store.lock \
	    || exit 1; done
	for group in build uv audit go; do \
	    $(COMPILE) --group pyproject.toml:$$group -o requirements-$$group.lock || exit 1; done
	$(COMPILE) bench/requirements.in -o bench/requirements.lock

# Needs a network: asks the package index which of the locked versions have known holes. What it cannot
# say of a package is a failure, too.
audit: .tools/audit/.ready
	for lock in requirements*.lock bench/requirements.lock; do echo "$$lock:"; \
	    .tools/audit/bin/pip-audit --strict --disable-pip --require-hashes -r $$lock || exit 1; done

sbom: $(READY)
	$(BIN)/python scripts/write_sbom.py sbom.cdx.json

# Programs beside the product, each in an environment of its own.
.tools/%/.ready: requirements-%.lock scripts/make-venv
	scripts/make-venv '$(PYTHON)' .tools/$*
	.tools/$*/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r $<
	touch $@

clean:
	rm -rf $(VENV) .bench-venv .tools demo-output bench-output build *.egg-info sbom.cdx.json

COMPILED := setup.py $(shell find rivet_fleet -name "*.pyx" -o -name "*.pxd" -o -name "*.h")

$(READY): requirements-dev.lock pyproject.toml scripts/make-venv $(COMPILED)
	scripts/make-venv '$(PYTHON)' $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-index --no-deps --no-build-isolation \
	    --config-settings editable_mode=compat -e .
	touch $@

.tools/.ready: scripts/install-tools requirements-go.lock $(wildcard scripts/go/*/go.*)
	PYTHON=$(PYTHON) scripts/install-tools
	mkdir -p .tools && touch $@
