# Two commands are enough: `make demo` and `make test`. Everything they need they install.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Every process would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types chaos chaos-all bench bench-oltp lock clean

demo: $(READY)
	$(BIN)/rivet-fleet demo

# One more than the two cores it is made for: much of a fault is waiting.
TESTERS ?= 3

test: $(READY) .tools/.ready
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

# Until you stop it; `make chaos SOURCE=mariadb STATE=postgres`.
SOURCE ?= postgres
STATE  ?= sqlite

chaos: $(READY) .tools/.ready
	$(BIN)/python -m chaos.kill_loop --seconds 0 --source $(SOURCE) --state $(STATE)

# Every scenario over every source and state: an hour or two.
chaos-all: $(READY) .tools/.ready
	$(BIN)/python -m pytest chaos -m "soak or not soak"

bench: $(READY)
	$(BIN)/python -m bench

# Six minutes: what an application feels while its database is extracted.
bench-oltp: $(READY) .tools/.ready
	$(BIN)/python -m bench.oltp --write-docs

lock: $(READY)
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url --extra demo --extra test pyproject.toml -o requirements-dev.lock

clean:
	rm -rf $(VENV) .bench-venv .tools demo-output bench-output build *.egg-info

COMPILED := setup.py $(shell find rivet_fleet -name "*.pyx" -o -name "*.pxd" -o -name "*.h")

$(READY): requirements-dev.lock pyproject.toml scripts/make-venv $(COMPILED)
	scripts/make-venv '$(PYTHON)' $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements-dev.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation \
	    --config-settings editable_mode=compat -e .
	touch $@

.tools/.ready: scripts/install-tools
	PYTHON=$(PYTHON) scripts/install-tools
	mkdir -p .tools && touch $@
