# `make demo` and `make test` do all the set-up themselves: they need Python 3.10 or newer and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --progress-bar off --editable ".[test]"
	touch $@

demo: $(VENV)/.ready
	$(BIN)/python main.py --exp demo

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/.ready
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV)
