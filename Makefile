# Two commands on a fresh machine: `make demo` and `make test`. Nothing but Python 3.11+ and make is assumed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VEC2TEXT := $(VENV)/share/nextvec/vec2text
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Not compiled: 25,000 files would take two minutes, and those that are imported are compiled then.
INSTALL := $(PIP) install --quiet --no-compile -c constraints.txt

.PHONY: install demo pretrained test test-browser faults lint bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "nextvec needs Python 3.11 or newer; run make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) -e ".[demo,dev]"
	@# A reference of the parity tests: a part of it needs none of its requirements, which would replace torch. The
	@# check would complain of them, so an older environment is checked without it too.
	@$(PIP) uninstall --quiet --yes torchscale 2>/dev/null
	$(PIP) check
	$(INSTALL) --no-deps torchscale
	@touch $@

# The packages that vec2text runs with, for its tests: 70 MB beside the torch that is there.
$(VEC2TEXT)/environment.json: src/nextvec/decoding/vec2text/requirements.txt $(VENV)/.installed
	$(BIN)/nextvec decoder setup vec2text --folder $(VEC2TEXT)
	@touch $@

demo: install
	$(BIN)/nextvec demo --out demo

# The model that comes with the package, made again (25 minutes of one core): make pretrained STORE=STORE SPLIT=splits.json
pretrained: install
	$(BIN)/python benchmarks/pretrained.py $(STORE) --split-file $(SPLIT)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint $(VEC2TEXT)/environment.json
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4

# kill -9, a full disk and damage at every moment and place; `make test` has a few of each.
faults: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 -vv -m faults tests/faults

# The playground and the report in a real browser; needs Debian's chromium (apt-get install chromium).
test-browser: install
	$(INSTALL) -e ".[browser]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/browser

# Everything that is compared with a named peer; docs/speed.md shows the table. `make bench QUICK=--quick` in minutes;
# `.venv/bin/python benchmarks/speed.py --help` tells the rest.
bench: install
	$(BIN)/python benchmarks/speed.py $(QUICK)

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
