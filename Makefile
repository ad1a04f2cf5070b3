# `make demo` and `make test` need Python 3.11 or newer and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread per numerical library: processes and Dask threads already use all cores.
export OMP_NUM_THREADS ?= 1
# Processes that run the tests, each a file at a time; tests of one file share what they have made. One more than there
# are cores, as many of the slow ones wait: for a limit, a lease, a job.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

# Minutes of `make fuzz`.
MINUTES ?= 10

# Of `make crash-points`: a verb as `pytest --collect-only tests/faults/test_crash_points.py` names it, all where none is
# named; and at how many of its points it is killed, or `all`.
VERB ?=
POINTS ?= 20

.PHONY: demo test properties lint bench fuzz crash-points site clean

demo: $(STAMP)
	$(BIN)/fintune-xr demo demo $(if $(QUICK),--quick)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# The tests of properties on examples that are drawn anew.
properties: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) -m hypothesis --hypothesis-profile drawn

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks

fuzz: $(STAMP)
	$(BIN)/python -m benchmarks.fuzz --minutes $(MINUTES)

# Verbs killed at their changes of files, or refused to write, and run again: make crash-points VERB=cells-train POINTS=all
crash-points: $(STAMP)
	CRASH_POINTS=$(POINTS) $(BIN)/python -m pytest -s --timeout 0 \
	  $(if $(VERB),$(foreach how,dead_at_a_point refused_writes,\
	  'tests/faults/test_crash_points.py::test_$(how)_and_run_again[$(VERB)]'),tests/faults/test_crash_points.py)

# The documentation as a site: site/index.html.
site: $(STAMP)
	$(BIN)/mkdocs build --quiet

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fintune-xr needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || { echo "making a Python environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing what constraints.txt pins into $(VENV); some minutes, most of them for PyTorch, and nothing is printed"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@echo "installed: $$(du -sh $(VENV) | cut -f1)"
	@touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache
