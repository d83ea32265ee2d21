# Everything that a fresh machine needs: `make demo` and `make test` make their own virtual environment.
PYTHON ?= python3
RUNS ?= runs
MINUTES ?= 10
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo pretrain-phantom test test-long chaos fuzz lint clean

# The pipeline end to end: echo videos -> records -> training -> scored features and a report.
demo: $(STAMP)
	$(BIN)/python -m discovr_jax.main --config=configs/phantom.py --workdir=$(RUNS)/demo

# The longer training on the phantom, on more clips; the same command resumes.
pretrain-phantom: $(STAMP)
	$(BIN)/python -m discovr_jax.main --config=configs/phantom.py:long --workdir=$(RUNS)/phantom

# Two at a time; the tests of a file stay together, since they share what takes long to make.
test: $(STAMP) lint
	$(BIN)/python -m pytest -n 2 --dist=loadfile

# What takes minutes: runs of several processes.
test-long: $(STAMP)
	$(BIN)/python -m pytest -m long

# Breaks real training runs in many ways, for an hour or so; started again it goes on. See docs/reliability.md.
chaos: $(STAMP)
	$(BIN)/python -m tests.chaos --output=$(RUNS)/chaos

# Style, undefined names, and the types of the public surface (pyproject.toml says which files).
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

# Damaged files and arguments for MINUTES in all, each parser in processes of its own; counts in docs/reliability.md.
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz --minutes=$(MINUTES)

$(STAMP): setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt setuptools wheel
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
