# Everything that a fresh machine with Python (3.11 or later), make and git needs:
#   make demo   install the core, reproduce all theorems in quick form, write results/demo/report.html
#   make demo-llm  install the language-model extra too; the tiny world end to end, to a report
#   make test   install everything with the tests; format, lint, types, import contracts, tests
#   make bench  the speed benchmarks
#   make sabotages  try the verdict of every card with wrong algorithms; writes the table of what it notices
#   make browser  Debian's Chromium, in which the tests look at reports; they are skipped without it
#   make clean  remove what the other targets made

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo demo-llm test bench sabotages browser clean constraints
.DELETE_ON_ERROR:

demo: .venv/.core
	$(BIN)/rlhf-theory reproduce all --quick --out results/demo

demo-llm: .venv/.llm
	$(BIN)/rlhf-theory lm demo --out results/demo-llm

test: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n auto

bench: .venv/.test
	@set -e; for file in benchmarks/speed/*.py; do \
	  echo "== $$file"; \
	  OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python $$file; \
	done

sabotages: .venv/.core
	$(BIN)/rlhf-theory sabotage all --table rlhf_theory/theorems/sabotages.json

# As root on Debian or Ubuntu. Nothing else of this project needs more than Python, make and git.
browser:
	@command -v chromedriver >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq chromium chromium-driver fonts-dejavu-core; }

clean:
	rm -rf .venv results/demo results/demo-llm dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	rm -rf .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: a file in .venv says what is installed, so that a second call installs nothing.
.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python must be 3.11 or later; $(PYTHON) is not. Try: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@touch $@

# The build back end is pinned too, so the package is built without an isolated environment.
.venv/.core: .venv/.made pyproject.toml constraints.txt
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation -e .
	@touch $@

# torch first, at its pinned version: other packages would bring another build of it.
.venv/.llm: .venv/.core
	$(PIP) torch==2.13.0
	$(PIP) --no-build-isolation -e '.[llm]'
	@touch $@

.venv/.test: .venv/.llm
	$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@

# Pins of what the targets above install, from a fresh environment and the newest releases that
# pyproject.toml admits. Accelerator libraries that some builds of torch bring are left out, since
# they differ between machines; so is the build tag of torch.
constraints:
	rm -rf .venv-pins
	$(PYTHON) -m venv .venv-pins
	.venv-pins/bin/python -m pip install --quiet torch==2.13.0 hatchling editables 'matplotlib<3.13'
	.venv-pins/bin/python -m pip install --quiet 'matplotlib<3.13' -e '.[llm,dev]'
	{ sed -n '/^#/p' constraints.txt; \
	  .venv-pins/bin/python -m pip freeze --all --exclude-editable --exclude pip \
	  | grep -v -i -E '^(nvidia|cuda|triton)' | sed 's/+.*//' | sort -f; } > constraints.new
	mv constraints.new constraints.txt
	rm -rf .venv-pins
