# Two commands do everything on an empty machine: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8501

.PHONY: run quickstart test lint unit browser screenshots install clean

run: install
	$(BIN)/draftbench fetch
	$(BIN)/streamlit run workbench/app.py --server.port $(PORT)

quickstart: install
	$(BIN)/draftbench fetch
	$(BIN)/draftbench run recipes/quickstart.yaml

test: lint
	$(BIN)/draftbench fetch
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/browser
	$(BIN)/python -m pytest tests/browser

unit: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" tests/unit tests/ui

browser: install
	$(BIN)/draftbench fetch
	$(BIN)/python -m pytest tests/browser

screenshots: install
	$(BIN)/draftbench fetch
	$(BIN)/python docs/screenshots.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict engine workbench

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
