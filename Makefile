# Thin names for real commands. Each sets up .venv by itself, from nothing, with what it needs.
#
#   make demo [SEED=0]    generate images, train a small Deformable DETR on them, evaluate, draw
#   make test             all tests
#   make lint             ruff and codespell
#   make docs             the documentation site, in site/
#   make wheels           the files of a release, in dist/, each installed and tested in an empty environment
#   make bench            operator, training step and inference on this machine
#   make fuzz [INPUTS=100000]   readers of annotations and checkpoints
#   make sanitize              the operator's tests on CPU kernels with AddressSanitizer and UndefinedBehaviorSanitizer
#   make compute-sanitizer      the operator's properties on its CUDA kernels, under NVIDIA's tool
#   make clean            remove .venv and what was built
#
# TORCH_INDEX=URL takes torch and torchvision from another package index: without a GPU, PyTorch's index of CPU builds
# saves a download of gigabytes.

PYTHON ?= python3
SEED ?= 0
INPUTS ?= 100000
TORCH_INDEX ?=
VENV := .venv
PY := $(VENV)/bin/python
LOG := $(VENV)/stages.tsv
STAGE := $(PYTHON) .ci/stage --log $(LOG)
LISTS := pyproject.toml constraints.txt detectron2_lite/pyproject.toml .ci/requirements
SOURCES := setup.py detrex_ops/build_extensions.py $(wildcard detrex_ops/csrc/* detrex_ops/csrc/*/*)
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
QUIET := $(shell test -t 1 || echo --quiet)
PIP := $(PY) -m pip --disable-pip-version-check $(QUIET)

# Downloads are a stage of their own, so that the others say what this machine took. uv has no such command.
ifneq ($(shell command -v uv 2>/dev/null),)
  CREATE := UV_PYTHON_DOWNLOADS=never uv venv --seed --allow-existing --python $(PYTHON) $(VENV)
  UV := VIRTUAL_ENV=$(VENV) uv pip install $(QUIET) --constraint constraints.txt $(INDEX)
  define get
	@$(STAGE) "Downloading and installing $(1)" env $(UV) -r $(2)
  endef
else
  CREATE := $(PYTHON) -m venv $(VENV)
  define get
	@$(STAGE) "Downloading $(1)" $(PIP) download --dest $(VENV)/downloads --constraint constraints.txt $(INDEX) -r $(2)
	@$(STAGE) "Installing $(1)" $(PIP) install --no-compile --no-index --find-links $(VENV)/downloads -r $(2)
	@rm -rf $(VENV)/downloads
  endef
endif

# Further sets in one stage: `pip download` would fetch again what is installed, torch among it.
define add
	@$(STAGE) "Downloading and installing $(1)" $(PIP) install --no-compile --constraint constraints.txt -r $(2)
endef

# A busy machine loses several-fold when idle OpenMP threads spin.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test lint docs wheels bench install clean sanitize compute-sanitizer fuzz
.DEFAULT_GOAL := test

demo: $(VENV)/.demo
	@$(STAGE) "Demo: images, training, evaluation, pictures" $(PY) -m detrex demo --seed $(SEED)
	@$(PYTHON) .ci/stage --table $(LOG)

test: $(VENV)/.test
	@$(STAGE) "All tests" env OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile --durations 15
	@$(PYTHON) .ci/stage --table $(LOG)

lint: $(VENV)/.lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m codespell_lib

docs: $(VENV)/.docs
	@$(STAGE) "Documentation" $(PY) -m sphinx --fail-on-warning --keep-going --quiet -c docs -d build/doctrees . site
	@echo "   site/index.html"

wheels: $(VENV)/.wheels
	@$(STAGE) "Wheels" $(PY) .ci/wheels

bench: $(VENV)/.demo
	$(PY) benchmarks/operator.py --limits
	$(PY) benchmarks/train_step.py
	$(PY) benchmarks/inference.py

sanitize: $(VENV)/.test
	DETREX_TEST_SHARE=0.1 $(PY) tests/ops/sanitized.py

compute-sanitizer: $(VENV)/.test
	DETREX_OPS=cuda DETREX_TEST_SHARE=0.1 compute-sanitizer --error-exitcode 1 $(PY) -m pytest tests/ops/test_properties.py -k cuda

fuzz: $(VENV)/.test
	$(PY) -m tests.fuzz.fuzz --inputs $(INPUTS)

install: $(VENV)/.demo

# One stamp for each set of packages. Adding a set to an environment installs the packages only.
$(PY):
	@mkdir -p $(VENV)
	@$(STAGE) "Creating $(VENV)" env $(CREATE)

$(VENV)/.demo: $(VENV)/.demo-packages $(SOURCES)
	@$(STAGE) "Compiling the operator, installing detrex and detectron2_lite" \
		$(PY) -m pip --disable-pip-version-check --quiet install --no-deps --no-build-isolation --no-compile \
		--editable ./detectron2_lite --editable .
	@sed 's/^/   /' detrex_ops/_build_report.txt
	@touch $@

$(VENV)/.test-packages $(VENV)/.docs-packages $(VENV)/.wheels-packages: $(VENV)/.demo-packages

$(VENV)/.test: $(VENV)/.demo $(VENV)/.test-packages
	@touch $@

$(VENV)/.docs: $(VENV)/.demo $(VENV)/.docs-packages
	@touch $@

$(VENV)/.wheels: $(VENV)/.demo $(VENV)/.wheels-packages
	@touch $@

$(VENV)/.lint: $(VENV)/.lint-packages
	@touch $@

$(VENV)/.demo-packages: $(LISTS) | $(PY)
	@$(PY) .ci/requirements demo > $(VENV)/demo.txt
	$(call get,packages for demo,$(VENV)/demo.txt)
	@touch $@

$(VENV)/.%-packages: $(LISTS) | $(PY)
	@$(PY) .ci/requirements $* > $(VENV)/$*.txt
	$(call add,packages for $*,$(VENV)/$*.txt)
	@touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info detectron2_lite/src/*.egg-info detrex_ops/*.so
