# Every developer verb. `make demo` or `make test` may be the first command on a fresh machine.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data
WORK ?= build/bench

.PHONY: setup demo test lint type format bench bench-retrieval bench-localize bench-learning bench-extractors bench-accuracy bench-proofs bench-overlays bench-steered bench-validation clean
.DEFAULT_GOAL := help

help:
	@echo "make demo                     set everything up, render a town, index it, find a landmark in it"
	@echo "make demo PHOTOS=DIR QUERY=F  the same on your own photos"
	@echo "make test                     set everything up and run the tests"
	@echo "make lint type                ruff, mypy"
	@echo "make bench                    speed of build, query and search"
	@echo "make bench-retrieval          accuracy on the labelled photos of DATA=$(DATA)"
	@echo "make bench-localize           maps and poses: accuracy, honesty, speed (10 min)"
	@echo "make bench-learning           train every system three times, compare with its start (5 h)"
	@echo "make bench-accuracy           the shipped features against RootSIFT"
	@echo "make bench-proofs             how well the default proves a place, by Lowe's ratio (30 min)"
	@echo "make bench-overlays           what captions, frames, watermarks, ... prove (20 min)"
	@echo "make bench-steered            the shipped features at other settings, and pictures of where the default fails"
	@echo "make bench-validation         what settings and weights are chosen by: photos that no training sees"
	@echo "make bench-extractors         all extractors in one table (2 h)"

setup: $(VENV)/.ready

# torch first: with it there, no other package asks for a build with gigabytes of CUDA libraries.
$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("locate needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,lightglue]'
	@touch $@

# "No match" (1), "some files failed" (3) and "uncertain" (5) are answers, not faults of the demo.
ANSWER = || case $$? in 1|3|5) ;; *) exit 1 ;; esac

demo: setup
ifdef PHOTOS
	$(BIN)/locate build-index "$(PHOTOS)" --index "demo/$$(basename "$(PHOTOS)").locate" $(ANSWER)
ifdef QUERY
	$(BIN)/locate query "$(QUERY)" --index "demo/$$(basename "$(PHOTOS)").locate" --save-matches demo/matches --html demo/report.html $(ANSWER)
	@echo "open demo/report.html, or the pictures in demo/matches"
else
	@echo "now ask it: make demo PHOTOS=$(PHOTOS) QUERY=photo.jpg"
endif
else
	$(BIN)/locate make-town demo/town
	$(BIN)/locate build-index demo/town/landmarks --index demo/.locate
	$(BIN)/locate query demo/town/queries/church.jpg --index demo/.locate --top 4
	$(BIN)/locate query demo/town/queries --index demo/.locate --save-matches demo/matches --html demo/report.html $(ANSWER)
	$(BIN)/locate import-map demo/town/colmap --images demo/town/landmarks --out demo/town.map --metric
	$(BIN)/locate georef --map demo/town.map
	$(BIN)/locate localize demo/town/queries --map demo/town.map --save-matches demo/poses --show demo/poses.html $(ANSWER)
	@echo "open demo/report.html and demo/poses.html, or the pictures in demo/matches and demo/poses"
endif

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python benchmarks/tables/speed.py --work $(WORK)
	$(BIN)/python benchmarks/tables/search.py

bench-retrieval: setup
	$(BIN)/python benchmarks/tables/retrieval.py --data $(DATA) --work $(WORK)

bench-localize: setup
	$(BIN)/python benchmarks/tables/localize.py --data $(DATA) --work $(WORK)/localize --out docs/benchmarks
	$(BIN)/python benchmarks/tables/maps.py --data $(DATA) --work $(WORK)/maps --out $(WORK)
	$(BIN)/python benchmarks/tables/localize_speed.py --work $(WORK)/localize --out docs/benchmarks

# Trains three seeds of each system, two at a time; what is finished in WORK is not done again.
bench-learning: setup
	$(BIN)/python benchmarks/tables/learning.py --data $(DATA) --work $(WORK)/learning --out docs/benchmarks

bench-extractors: setup
	$(BIN)/python benchmarks/tables/extractors.py --data $(DATA) --work $(WORK)/extractors --out docs/benchmarks

bench-accuracy: setup
	$(BIN)/python benchmarks/tables/accuracy.py --data $(DATA) --work $(WORK)/extractors --out docs/benchmarks

bench-proofs: setup
	$(BIN)/python benchmarks/ablations/proofs.py --data $(DATA) --out docs/benchmarks

bench-overlays: setup
	$(BIN)/python benchmarks/tables/overlays.py --data $(DATA) --out docs/benchmarks

bench-steered: setup
	$(BIN)/python benchmarks/ablations/steered.py --data $(DATA) --work $(WORK)/extractors --out docs/benchmarks
	$(BIN)/python benchmarks/ablations/pictures.py --work $(WORK)/town --out docs/benchmarks

# WEIGHTS and EXTRACTORS: those to compare with each other and with RootSIFT.
bench-validation: setup
	$(BIN)/python benchmarks/tables/validation.py --data $(DATA) --work $(WORK)/validation --out $(WORK)/validation \
		--extractor $(EXTRACTORS) --weights $(WEIGHTS)

clean:
	rm -rf build demo .pytest_cache .mypy_cache .ruff_cache
