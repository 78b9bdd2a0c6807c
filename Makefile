# Two commands do everything on an empty machine: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8501
WORKERS ?= 2

.PHONY: run quickstart test suite unit browser bench screenshots lint style types install clean

run: install
	$(BIN)/draftbench fetch
	$(BIN)/streamlit run workbench/app.py --server.port $(PORT)

quickstart: install
	$(BIN)/draftbench fetch
	$(BIN)/draftbench run recipes/quickstart.yaml

# The type checker runs beside the tests. Browser tests come after them, since they wait for pages with time limits.
test: style
	$(BIN)/draftbench fetch
	$(MAKE) --no-print-directory --jobs 2 --keep-going types suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests/browser

# Containers often set it; then each worker compiles every test module, each time.
unexport PYTHONDONTWRITEBYTECODE

# A thread per worker: with more, tiny tensors and the processes that tests start wait for each other most of the time.
suite unit: export OMP_NUM_THREADS = 1

suite: install
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --ignore tests/browser

unit: install
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow" tests/unit

browser: install
	$(BIN)/draftbench fetch
	$(BIN)/python -m pytest tests/browser

# Speed beside other programs: a quarter of an hour on an idle machine. OPTIONS, e.g. "--rows decode --baseline DIR".
bench: install
	$(BIN)/draftbench fetch
	$(BIN)/python benchmarks/bench.py --out bench.json $(OPTIONS)

screenshots: install
	$(BIN)/draftbench fetch
	$(BIN)/python docs/screenshots.py

lint: style types

style: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy --strict engine workbench

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
