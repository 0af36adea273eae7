# Every target works from a clean clone: the environment is made on first use and again when one of
# the files that describe it has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One process a core, each with one thread; a file's tests stay together, for the fixtures they share.
# Bytecode is kept whatever the environment says, or each process would compile the tests' assertions anew.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadscope
SOURCES := mmseg_acl tools tests configs docs/site setup.py

.DEFAULT_GOAL := help
.PHONY: help install demo docs gpu-check picture test test-quick test-families test-robust test-readers results lint format clean

help:
	@echo 'make demo        train and test on synthetic frames, write work_dirs/demo/report.html'
	@echo 'make test        all tests'
	@echo 'make test-quick  the tests that take less than about a fifth of a second each'
	@echo 'make test-families every method with every family of students (half an hour)'
	@echo 'make test-robust the tests that train, with other seeds, start weights and instructions (an hour)'
	@echo 'make test-readers what is written for CVAT, COCO and Label Studio, read by their own libraries (downloads them)'
	@echo 'make gpu-check   what a GPU alone can show: half precision, NCCL, the cost of each method at 384'
	@echo 'make docs        write these pages and the API as a site, work_dirs/site/index.html'
	@echo 'make results     write the tables and figures of the documents from the files in results/'
	@echo 'make picture     run the demo and take its example for README.md'
	@echo 'make lint        check style'
	@echo 'make format      mend style'
	@echo 'make install     only make the environment in $(VENV)'
	@echo 'make clean       remove $(VENV) and what the demo wrote'

install: $(STAMP)

$(STAMP): pyproject.toml requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.version_info >= (3, 10) or \
	  sys.exit("mmseg_acl needs Python 3.10 or newer, %s is %s: make PYTHON=python3.11 ..." % (sys.executable, v))'
	@echo 'Making the environment in $(VENV): this takes some minutes the first time.'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo '  installing torch, the OpenMMLab stack and the tools for tests ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --requirement requirements.txt --editable '.[dev]'
	@touch $@
	@echo '  done.'

demo: $(STAMP)
	@$(BIN)/python tools/demo.py

# Strict: a link that leads nowhere is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --config-file docs/site/mkdocs.yml
	@echo 'written: work_dirs/site/index.html; to search in it: $(BIN)/python -m http.server -d work_dirs/site'

picture: demo
	mkdir -p docs/pictures && cp work_dirs/demo/example.png docs/pictures/demo.png

test: $(STAMP)
	$(PYTEST)

test-quick: $(STAMP)
	$(PYTEST) -m 'not slow'

test-families: $(STAMP)
	$(PYTEST) -m families

# What a GPU alone can show. The list of runs for it: configs/experiments/gpu_day.yaml.
gpu-check: $(STAMP)
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	  $(BIN)/python -m pytest -rs -v -p no:cacheprovider tests/test_gpu.py && \
	  $(BIN)/python tools/benchmark_speed.py --parts methods --device cuda --sides 128 384 --out work_dirs/gpu; \
	else echo 'skipped: torch sees no GPU here, so nothing was checked'; fi

LAPTOP := results/laptop
ARCHIVE := $(LAPTOP)/archive
GRIDS := labels decomposition laptop foreign sequences black_frames
# Seed 0 of each method as NAME=FILE, quoted for xargs.
seed0 = $(BIN)/python -c 'from mmseg_acl.methods import METHODS; \
  [print(f"\"{m.name}=$(ARCHIVE)/{m.folder}_mbv2_kvasir_eighth_seed0/$(1)\"") for m in METHODS if m.published]' | xargs
results: $(STAMP)
	for grid in $(GRIDS); do \
	  $(BIN)/python tools/experiments.py tables configs/experiments/$$grid.yaml --results $(LAPTOP) || exit 1; \
	done
	$(BIN)/python tools/experiments.py documents README.md docs/*.md $(LAPTOP)/README.md $(ARCHIVE)/README.md $(ARCHIVE)/runs.md
	for figure in labels cost; do \
	  $(BIN)/python tools/visualize.py against --described $(LAPTOP)/tables.yaml $$figure --out $(LAPTOP)/$$figure || exit 1; \
	done
	$(call seed0,scalars.json) $(BIN)/python tools/visualize.py curves --out $(ARCHIVE)/curves \
	  --scalars loss student/mDice teacher/mDice focused/mDice --
	$(call seed0,per_image.csv) $(BIN)/python tools/visualize.py distribution --out $(ARCHIVE)/distribution

test-robust: $(STAMP)
	$(BIN)/python tests/robustness.py --jobs "$$(nproc)"

# Libraries whose pins go with neither our Pillow nor our OpenCV, each in an environment of its own.
READERS := $(VENV)/readers
test-readers: $(STAMP)
	rm -rf $(READERS)/cases
	PYTHONPATH=.:tests $(BIN)/python tests/foreign_readers.py write $(READERS)/cases
	for reader in datumaro label-studio-sdk; do \
	  test -x $(READERS)/$$reader/bin/python || $(PYTHON) -m venv $(READERS)/$$reader || exit 1; \
	  $(READERS)/$$reader/bin/python -m pip install --quiet --disable-pip-version-check $$reader || exit 1; \
	done
	$(READERS)/datumaro/bin/python tests/foreign_readers.py datumaro $(READERS)/cases
	$(READERS)/label-studio-sdk/bin/python tests/foreign_readers.py labelstudio $(READERS)/cases

lint: $(STAMP)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/python tools/check_markdown.py README.md $(wildcard docs/*.md results/*/*.md results/*/*/*.md)

format: $(STAMP)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf $(VENV) work_dirs/demo
