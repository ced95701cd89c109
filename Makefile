# Everything a newcomer needs: each target works alone on a machine with Python 3.11+ and make.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   := build/demo
PEERS  ?= .venv-peers

.PHONY: demo test lint bench peers setup clean
.DELETE_ON_ERROR:

setup: $(VENV)/ready

# pip, not uv: only pip finds the CPU build of torch where an index offers one beside the CUDA build.
$(VENV)/ready: requirements.txt constraints.txt pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wsss-probe needs Python 3.11 or newer; run: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements.txt
	touch $@

demo: $(VENV)/ready
	$(BIN)/python demo/make_section.py $(DEMO)
	$(BIN)/python demo/run_demo.py $(DEMO) reports/demo/report.html

test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p wsss_probe $(foreach p,$(notdir $(wildcard plugins/*/wsss_probe_*)),-p $(p)) -m wsss_probe_hello
	$(BIN)/python tools/measure_style.py --check wsss_probe $(wildcard plugins/*/wsss_probe_*)

# Other people's explainers, to be measured against, have an environment of their own: they pull in much.
$(PEERS)/ready: benchmarks/requirements-peers.txt requirements.txt constraints.txt pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements.txt -r benchmarks/requirements-peers.txt
	touch $@

bench: $(VENV)/ready $(PEERS)/ready
	$(BIN)/python benchmarks/run.py

peers: $(PEERS)/ready
	OMP_NUM_THREADS=1 $(PEERS)/bin/python -m pytest -q -m peers

clean:
	rm -rf build dist $(VENV) $(PEERS) .pytest_cache .mypy_cache .ruff_cache .hypothesis
