# Two commands: `make run` opens the studio, `make test` runs all tests. Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run install test lint types pictures clean

run: install
	$(BIN)/python app.py $(ARGS)

install: $(VENV)/.installed

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.tested: $(VENV)/.installed tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

test: lint
	sh tests/find_browser.sh
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory types

types: $(VENV)/.tested
	$(BIN)/mypy

pictures: $(VENV)/.tested
	$(BIN)/python tests/make_pair.py
	$(BIN)/python tests/screenshots.py assets/screenshots readme
	$(BIN)/python tests/make_gif.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache build dist mosaicdiff.egg-info
