# Everything that a fresh machine needs: `make demo` and `make test` make their own virtual environment.
PYTHON ?= python3
RUNS ?= runs
MINUTES ?= 10
VENV := .venv
BIN := $(VENV)/bin
# The Python line, such as py313: each has its own versions that are tested together.
LINE := $(shell $(PYTHON) -c 'import sys; print("py%d%d" % sys.version_info[:2])')
CONSTRAINTS := $(wildcard constraints/$(LINE).txt)
STAMP := $(VENV)/.installed-$(LINE)
# Python compiles what is imported when it is; compiling all that is installed takes longer than the rest.
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check --no-compile $(addprefix -c ,$(CONSTRAINTS))

# Nor is it compiled again by each of the processes that a test starts, where the machine asks for no bytecode on disk,
# as many containers do: a start takes a second then, and not three.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo pretrain-phantom test test-newest test-long chaos fuzz lint docs constraints clean

# Huge pages: a step touches the same large arrays again and again (docs/speed.md).
demo pretrain-phantom: export GLIBC_TUNABLES := glibc.malloc.hugetlb=1

# The pipeline end to end: echo videos -> records -> training -> scored features and a report.
demo: $(STAMP)
	$(BIN)/python -m discovr_jax.main --config=configs/phantom.py --workdir=$(RUNS)/demo

# The longer training on the phantom, on more clips; the same command resumes.
pretrain-phantom: $(STAMP)
	$(BIN)/python -m discovr_jax.main --config=configs/phantom.py:long --workdir=$(RUNS)/phantom

# Two at a time; the tests of a file stay together, since they share what takes long to make. In their order: by
# default files of few tests come last, which are the long ones.
test: $(STAMP) lint
	$(BIN)/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder

# The same with the newest release of everything, in an environment of its own: what users will meet first.
test-newest:
	rm -rf .venv-newest
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=

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

# The documentation, into site/: broken links and anchors, and pages that are in no menu, are errors.
docs: $(STAMP)
	$(PIP) --no-build-isolation -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# An environment of another Python line is made anew.
$(STAMP): setup.py $(CONSTRAINTS)
	@test -n "$(LINE)" || { echo "$(PYTHON) is no Python; set PYTHON=python3.12, for example" >&2; exit 1; }
	@echo "$(LINE): $(if $(CONSTRAINTS),versions of $(CONSTRAINTS),the newest release of everything (no constraints file))"
	test -e $(VENV)/.installed-$(LINE) || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing some hundred packages into $(VENV), without a word for a minute or two"
	$(PIP) setuptools wheel
	$(PIP) --no-build-isolation -e ".[test]"
	touch $@

# Renews the versions that are tested together; run the tests with each line afterwards.
COMPILE = .venv-uv/bin/uv pip compile -q --upgrade --no-annotate --custom-compile-command "make constraints" setup.py
constraints:
	$(PYTHON) -m venv .venv-uv && .venv-uv/bin/python -m pip install -q --disable-pip-version-check uv
	for line in 11 12 13 14; do $(COMPILE) --extra test --extra docs --python-version 3.$$line -o constraints/py3$$line.txt || exit 1; done
	$(COMPILE) --extra test --extra beam --python-version 3.11 -o constraints/beam.txt

clean:
	rm -rf .venv .venv-newest .venv-uv build dist site *.egg-info
