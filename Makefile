# make detect             landmarks of the bundled sample scan, in detections/
# make detect SCAN=path   landmarks of your own scan (OUTPUT=folder puts them elsewhere,
#                         OPTIONS=--overwrite replaces landmarks that are there)
# make test               ruff, mypy and all tests
#
# Both set up .venv first, and again only when pyproject.toml has changed. A .venv of the same Python that is there
# already is gone on with, another one is replaced.

PYTHON ?= python3
VENV := .venv
SCAN ?= PALNetLandmarks/Resources/SampleScan.ply
OUTPUT ?= detections
# On Linux the newest torch for all comers brings CUDA with it (several GB). TORCH may hold other arguments for pip, for
# example an index with builds for the CPU only.
TORCH ?= torch==2.13.0

# Taken by the shell from its environment, literally, so that paths may hold blanks, quotes and dollar signs.
export PALNET_SCAN := $(value SCAN)
export PALNET_OUTPUT := $(value OUTPUT)

ifeq ($(filter detect,$(MAKECMDGOALS))$(value SCAN),detect)
$(error SCAN is empty: make detect SCAN=path, or without SCAN for the sample)
endif
ifeq ($(origin scan),command line)
$(error Write SCAN in capitals: make detect SCAN=path)
endif

.PHONY: help detect test clean

help:
	@sed -n '1,7s/^# \{0,1\}//p' Makefile

detect: $(VENV)/.detect-ready
	@$(VENV)/bin/palnet-landmarks detect $(OPTIONS) -o "$$PALNET_OUTPUT" -- "$$PALNET_SCAN"

# Two tests at a time, each with one thread for its matrix products.
test: $(VENV)/.test-ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist worksteal

$(VENV)/.detect-ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9))' || \
		{ echo "Python 3.9 or newer is needed; say which with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y python3-venv; \
		else \
			echo "Python's venv module is missing; install it by: sudo apt-get install python3-venv" >&2; exit 1; \
		fi
	@echo "Setting up $(VENV), once; this takes a minute or two ..."
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		$(VENV)/bin/pip --version 2>/dev/null | grep -qF "(python $$version)" || $(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[cli]'
	@touch $@

# slicer-core is 3D Slicer's own code without its window; it pins the VTK that Slicer has, so the tests run with that.
# Where there is no wheel of it, the tests that need it are skipped, except in CI.
$(VENV)/.test-ready: $(VENV)/.detect-ready
	$(VENV)/bin/python -m pip install --quiet $(TORCH) || $(VENV)/bin/python -m pip install --quiet 'torch>=2.2'
	$(VENV)/bin/python -m pip install --quiet -e '.[training,test]' slicer-core || \
		{ [ -z "$$CI" ] && $(VENV)/bin/python -m pip install --quiet -e '.[training,test]'; }
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
