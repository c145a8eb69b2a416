# Thin names for real commands. `make demo` and `make test` set up .venv by themselves, from nothing.
#
#   make demo [SEED=0]    generate images, train a small Deformable DETR on them, evaluate, draw
#   make test             all tests
#   make lint             ruff
#   make docs             the documentation site, in site/
#   make bench            operator, training step and inference on this machine
#   make fuzz [INPUTS=100000]   readers of annotations and checkpoints
#   make sanitize              the operator's tests on CPU kernels with AddressSanitizer and UndefinedBehaviorSanitizer
#   make compute-sanitizer      the operator's properties on its CUDA kernels, under NVIDIA's tool
#   make clean            remove .venv and what was built

PYTHON ?= python3
SEED ?= 0
INPUTS ?= 100000
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.installed
SOURCES := pyproject.toml setup.py constraints.txt detectron2_lite/pyproject.toml $(wildcard detrex_ops/csrc/* detrex_ops/csrc/*/*)

# uv where there is one, else pip.
ifneq ($(shell command -v uv 2>/dev/null),)
  CREATE := UV_PYTHON_DOWNLOADS=never uv venv --seed --python $(PYTHON) $(VENV)
  INSTALL := VIRTUAL_ENV=$(VENV) uv pip install --quiet --constraint constraints.txt
else
  CREATE := $(PYTHON) -m venv $(VENV)
  INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
endif

# A busy machine loses several-fold when idle OpenMP threads spin.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test lint docs bench install clean sanitize compute-sanitizer fuzz
.DEFAULT_GOAL := test

demo: $(READY)
	$(PY) tools/run_demo.py --seed $(SEED)

test: $(READY)
	@echo "== All tests, on $$($(PY) -c 'import os; print(os.cpu_count())') cores"
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

docs: $(READY)
	$(PY) -m sphinx --fail-on-warning --keep-going --quiet -c docs -d build/doctrees . site
	@echo "== site/index.html"

bench: $(READY)
	$(PY) benchmarks/operator.py --limits
	$(PY) benchmarks/train_step.py
	$(PY) benchmarks/inference.py

sanitize: $(READY)
	DETREX_TEST_SHARE=0.1 $(PY) tests/ops/sanitized.py

compute-sanitizer: $(READY)
	DETREX_OPS=cuda DETREX_TEST_SHARE=0.1 compute-sanitizer --error-exitcode 1 $(PY) -m pytest tests/ops/test_properties.py -k cuda

fuzz: $(READY)
	$(PY) -m tests.fuzz.fuzz --inputs $(INPUTS)

install: $(READY)

$(PY):
	@echo "== Creating $(VENV)"
	$(CREATE)

# torch comes first: the extension is compiled against the torch that will load it.
$(READY): $(SOURCES) | $(PY)
	@echo "== Installing into $(VENV): torch (some minutes the first time), then this project"
	$(INSTALL) setuptools wheel ninja torch torchvision
	$(INSTALL) --no-build-isolation --editable ./detectron2_lite --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build site *.egg-info detectron2_lite/src/*.egg-info detrex_ops/*.so
