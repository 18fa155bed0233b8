# make run and make test are all that a fresh machine needs: both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install run test smoke lint docs bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

run: install  ## DIEN on the embedded synthetic data
	$(BIN)/recexp model=dien trainer.epochs=5

test: install
	$(BIN)/python -m pytest

smoke: install  ## every model, then every named variant, for a few steps
	$(BIN)/recexp -m +experiment=smoke
	$(BIN)/recexp -m '+experiment/variants=glob(*)'

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: install  ## docs/models.md from the models' own files
	$(BIN)/python docs/generate.py

bench: install  ## ratios measured side by side; prints and times only
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/startup.py

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
