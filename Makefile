PYTHON ?= python3
VENV ?= .venv
VENV4 ?= .venv-tl4
BIN = $(VENV)/bin

.PHONY: demo test test-tl4 test-quick test-numeric lint lint-js format bench components corpus-study experiments planted path-study causal-agreement figures notebooks demo-model demo-lens clean

## Set up and run the main job on the embedded model.
demo: $(VENV)/.ready
	mkdir -p out
	$(BIN)/iglens run "What is the capital of Vietnam?" --chat --generate 12 --html out/demo.html

## Set up and pass the tests.
test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n auto --dist loadgroup

## The same on the newest TransformerLens 4, which has no HookedTransformer.
test-tl4: $(VENV4)/.ready-dev
	$(VENV4)/bin/python -m pytest -n auto --dist loadgroup $(ARGS)

# Without checking the shapes and types of arguments, for what runs with them in `make test`.
UNCHECKED = -o addopts="-q --strict-markers"

# What a first verdict goes without: browsers, trained lenses, experiments, whole notebooks, pytest
# within pytest.
SLOW = tests/experiments tests/test_notebooks.py tests/test_examples.py tests/test_sampled_cases.py \
	tests/views/report/test_report_browser.py tests/views/report/test_report_keyboard.py \
	tests/views/figures/test_browser.py tests/views/test_html.py tests/views/test_validation_page.py \
	tests/tuning/test_shipped_lens.py

## A first verdict in 90 seconds: one case of every test of the package, on 2 cores.
test-quick: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup --cases 1 $(UNCHECKED) \
		$(foreach path,$(SLOW),--ignore-glob='$(path)') $(ARGS)

# Another processor computes the same numbers with other kernels, which sum in another order, and
# not always in the same one.
NUMERIC = tests/readout tests/models tests/lenses tests/tuning tests/interventions \
	tests/evaluation tests/results tests/cli
OTHER_PROCESSOR = MKL_CBWR=COMPATIBLE ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1

## Three cases of every test that compares numbers, as a processor without vector units computes them.
test-numeric: $(VENV)/.ready-dev
	$(OTHER_PROCESSOR) $(BIN)/python -m pytest -n auto --dist loadgroup --other-rounding --cases 3 \
		$(UNCHECKED) $(NUMERIC)

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	@if command -v npm > /dev/null; then $(MAKE) lint-js; else echo "without npm, JavaScript is not checked"; fi

## Check the scripts of HTML pages: lint, types, and that plotly's script is the published one.
lint-js: js/node_modules/.ready
	npm --prefix js run --silent check

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

## Print the tables of speed and memory.
bench: $(VENV)/.ready-dev
	$(BIN)/python -m experiments.benchmarks.comparison
	$(BIN)/python -m experiments.benchmarks.ragged
	$(BIN)/python -m experiments.benchmarks.corpus
	$(BIN)/python -m experiments.benchmarks.corpus_workers
	$(BIN)/python -m experiments.benchmarks.corpus_summary
	$(BIN)/python -m experiments.benchmarks.conductance
	$(BIN)/python -m experiments.benchmarks.components
	$(BIN)/python -m experiments.benchmarks.skipping
	$(BIN)/python -m experiments.benchmarks.layer_effects
	$(BIN)/python -m experiments.benchmarks.tuned_lens
	$(BIN)/python -m experiments.benchmarks.readout
	$(BIN)/python -m experiments.benchmarks.split_errors
	$(BIN)/python -m experiments.benchmarks.report_page
	$(BIN)/python -m experiments.benchmarks.startup

## Credit the heads of the embedded model's answers, ablate them and draw the pictures.
components: $(VENV)/.ready-dev
	$(BIN)/python -m experiments.components.show

## What layers do by kind of token, over 9,383 held-out texts and 512 stories.
corpus-study: $(VENV)/.ready-dev
	$(BIN)/python -m experiments.corpus_study.show

## Execute the notebooks in place, with static pictures of their figures.
notebooks: $(VENV)/.ready-dev
	$(BIN)/python -m experiments.notebooks.execute

## Measure whether credits are causal (about 20 minutes): two of three experiments at a time.
experiments: $(VENV)/.ready-dev
	$(MAKE) -j2 path-study causal-agreement planted

## Every lens and credit order against every intervention.
causal-agreement: $(VENV)/.ready-dev
	$(BIN)/python -m experiments.causal_agreement.show

## Orders, break points, baselines, values and estimators.
path-study: $(VENV)/.ready-dev
	$(BIN)/python -m experiments.path_study.show

## Models with answers planted by hand.
planted: $(VENV)/.ready-dev
	$(BIN)/python -m experiments.planted.show

## Draw the figures of the paper and its neighbours for the embedded model.
figures: $(VENV)/.ready-dev
	$(BIN)/python -m experiments.figures.show

## Train the embedded model again (about 40 minutes).
demo-model: $(VENV)/.ready-dev
	$(BIN)/python -m experiments.demo_model.train --out iglens_tl/models/demo

## Train the embedded model's tuned lens again (about 10 minutes).
demo-lens: $(VENV)/.ready-dev
	$(BIN)/python -m experiments.tuned_lens.train_demo

clean:
	rm -rf $(VENV) $(VENV4) build dist out *.egg-info js/node_modules

# Torch first: the other packages then keep this build instead of asking for the newest one.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

js/node_modules/.ready: js/package.json js/package-lock.json
	npm --prefix js ci --no-audit --no-fund
	touch $@

$(VENV4)/.ready-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV4)
	grep -v '^transformer' constraints.txt > $(VENV4)/constraints.txt
	$(VENV4)/bin/pip install --quiet -c $(VENV4)/constraints.txt torch
	$(VENV4)/bin/pip install --quiet -c $(VENV4)/constraints.txt -e ".[dev]" "transformer-lens>=4,<5"
	touch $@
