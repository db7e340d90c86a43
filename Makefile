# Every target sets up what it needs, on a machine that has Python 3.10 or newer with venv, and make. `make help` lists them.

PYTHON ?= python3
VENV ?= .venv
# 12 or 13 to take that CUDA generation's packages, none for no GPU packages; by default what `generation` below finds.
CUDA ?= auto
# Processes that share the tests. Two, because each brings threads of its own.
WORKERS ?= 2
# Handed on to the program: make train ARGS="--epochs 3"
ARGS ?=

BIN = $(abspath $(VENV))/bin
PY := $(VENV)/bin/python
STAMPS := $(VENV)/.set-up
SOURCES := pyproject.toml setup.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help train test test-long test-clients test-lowest lint format dist notes bench ledger paper gpu-proof docs doctor lock image-check clean distclean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s%s\n", $$1, $$2 }'
	@echo 'ARGS="..." is handed on; CUDA=12, 13 or none overrules the choice of GPU packages; PYTHON= and VENV= say where.'

# ---- The CUDA generation: what was asked for, else what the environment holds, else what the driver can run -------------------------
# CUDA 12 needs driver 525 and CUDA 13 driver 580. Only one of the two fits into an environment (pyproject.toml says why), so all
# targets agree on it.

ifneq (,$(filter train test test-long test-clients bench ledger paper gpu-proof doctor,$(MAKECMDGOALS)))
installed := $(patsubst cupy_cuda%x,%,$(firstword $(subst -, ,$(notdir $(firstword \
  $(wildcard $(VENV)/lib/python*/site-packages/cupy_cuda1[23]x-*.dist-info))))))
ifneq ($(CUDA),auto)
generation := $(CUDA)
else ifneq ($(installed),)
generation := $(installed)
else
driver := $(shell nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | sed -n '1s/^\([0-9][0-9]*\).*/\1/p')
generation := $(if $(driver),$(shell [ $(driver) -ge 580 ] && echo 13 || { [ $(driver) -ge 525 ] && echo 12; }))
ifneq ($(driver),)
ifeq ($(generation),)
$(warning NVIDIA driver $(driver) is older than CUDA 12 needs (525): no GPU packages are installed, and the CPU engine is used)
endif
endif
endif
ifeq ($(filter-out none,$(generation)),)
generation := none
else ifeq ($(filter 12 13,$(generation)),)
$(error CUDA=$(generation): use 12, 13, none or auto)
endif
# The tests compile the kernels on every machine, GPU or not, unless told not to.
test_generation := $(if $(filter autonone,$(CUDA)$(generation)),13,$(generation))
endif
gpu_extra = $(if $(filter 12 13,$(1)),$(comma)cuda$(1))
comma := ,

# ---- Setting up: one stamp for each set of packages, renewed when the lists of packages change --------------------------------------

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "gpu_adam needs Python 3.10 or newer and this is " + sys.version.split()[0] + ": make PYTHON=...")'
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "Python's venv is incomplete: on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 1; }

# $(call install,extras,CUDA generation,extras where these cannot be had)
define install
	@echo "Setting up $(VENV) for [$(1)]; the first time takes some minutes"
	@mkdir -p $(STAMPS)
	$(if $(filter 12,$(2)),@$(call drop,13))
	$(if $(filter 13,$(2)),@$(call drop,12))
	$(PY) -m pip install --disable-pip-version-check -e '.[$(1)]'$(if $(3), || { \
	  echo "There is no torch here that stands beside CUDA $(2): going on without it." >&2; \
	  $(PY) -m pip install --disable-pip-version-check -e '.[$(3)]'; })
	@touch $@
endef
# cuda-bindings takes the libraries of CUDA 13 before those of CUDA 12, whichever it is itself for.
drop = rm -f $(STAMPS)/*-cuda$(1); $(PY) -m pip uninstall --quiet --yes cupy-cuda$(1)x \
  $(if $(filter 13,$(1)),nvidia-cuda-nvrtc nvidia-nvjitlink nvidia-nvvm) 2>/dev/null

$(STAMPS)/train-cuda%: $(SOURCES) | $(PY)
	$(call install,train$(if $(filter 12 13,$*),-cuda$*),$*)

$(STAMPS)/test-cuda%: $(SOURCES) | $(PY)
	$(call install,test$(call gpu_extra,$*),$*,$(if $(filter 12,$*),proof$(comma)cuda12))

$(STAMPS)/clients-cuda%: $(SOURCES) | $(PY)
	$(call install,clients$(call gpu_extra,$*),$*)

$(STAMPS)/bench-cuda%: $(SOURCES) | $(PY)
	$(call install,bench$(call gpu_extra,$*),$*,$(if $(filter 12,$*),train$(comma)cuda12))

$(STAMPS)/lint: $(SOURCES) | $(PY)
	$(call install,lint)

$(STAMPS)/docs: $(SOURCES) | $(PY)
	$(call install,docs)

$(STAMPS)/dist: $(SOURCES) | $(PY)
	$(call install,dist)

# ---- The targets ------------------------------------------------------------------------------------------------------------------

train: $(STAMPS)/train-cuda$(generation)  ## train a small network on handwritten digits, on the GPU if there is one
	$(PY) -m gpu_adam train $(ARGS)

# The room of tests that needs the extra `clients`, and has a target of its own.
CLIENTS := tests/clients
# torch is an oracle here and needs one thread; more would take turns with the other workers' on the same cores.
RUN_TESTS = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest -n $(WORKERS) --maxschedchunk=1 --durations=10

test: $(STAMPS)/test-cuda$(test_generation)  ## run every test; those that need a GPU are skipped where there is none
	@command -v g++ >/dev/null || echo "g++ was not found: the tests that run the CUDA C++ on the CPU are skipped"
	$(RUN_TESTS) --ignore=$(CLIENTS) $(ARGS)

test-long: $(STAMPS)/test-cuda$(test_generation)  ## run the tests that `test` leaves out, since they take minutes
	$(RUN_TESTS) --ignore=$(CLIENTS) --long -m long $(ARGS)

test-clients: $(STAMPS)/clients-cuda$(test_generation)  ## run the tests in the trainers of Transformers, Accelerate and Lightning
	$(RUN_TESTS) $(CLIENTS) $(ARGS)

# In an environment of its own, made anew. uv, for pip cannot choose the lowest versions. The oldest Python has the lowest of them:
# PYTHON=python3.10. The files that between them reach every kernel, engine and library; those that take long are left to `test`.
LOWEST := build/lowest
UV := uv==0.13.9
COVERING := $(patsubst %,tests/%.py,arrays/test_dlpack engines/test_cpu_engine engines/test_gpu_program engines/test_kernel_cache_cpu \
  engines/test_kernel_cache_keys engines/test_nvrtc engines/test_nvvm kernels/test_cpu_features kernels/test_cpu_update \
  kernels/test_cuda_update kernels/test_numba_cuda_intrinsics kernels/test_numba_cuda_prologue kernels/test_numba_cuda_simulated \
  kernels/test_numba_cuda_update optim/test_bound_gradients optim/test_hyperparameters optim/test_refused_arrays \
  optim/test_shown_and_copied optim/test_structures rules/test_rules state/test_checkpoint step/test_sparse_gradients train/test_data \
  train/test_network train/test_train train/test_train_program)
test-lowest: | $(PY)  ## run the covering tests with the lowest versions that pyproject.toml allows
	$(PY) -m pip install --disable-pip-version-check --quiet $(UV)
	$(BIN)/uv venv --no-config --quiet --clear --python $(PYTHON) $(LOWEST)
	$(BIN)/uv pip install --no-config --python $(LOWEST)/bin/python --resolution lowest-direct -r pyproject.toml \
	  --extra proof --extra cuda$(if $(filter 12,$(CUDA)),12,13)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(LOWEST)/bin/python -m pytest -n $(WORKERS) -m "not slow" $(COVERING) $(ARGS)

bench: $(STAMPS)/bench-cuda$(generation)  ## measure the engines against PyTorch, NumPy and a plain copy; ARGS=--publish over the committed results
	$(PY) -m benchmarks $(ARGS)

ledger: $(STAMPS)/test-cuda$(test_generation)  ## compile the kernels, count their machine code, predict their times, into runs/ledger; no GPU is needed
	$(PY) -m benchmarks.ledger $(ARGS)

# Of `train` the cuBLAS for CuPy, of `bench` the torch.
paper: $(STAMPS)/train-cuda$(generation) $(STAMPS)/bench-cuda$(generation)  ## reproduce the paper's figures: make paper ARGS="--data-dir DIR", 15 minutes on two cores
	$(PY) -m examples.paper $(ARGS)

gpu-proof: $(STAMPS)/test-cuda$(test_generation)  ## prove and measure all that needs a GPU, in eight minutes
	$(PY) -m benchmarks --device cuda $(ARGS)

doctor: $(STAMPS)/train-cuda$(generation)  ## say which engines can run here, and what the others lack
	$(PY) -m gpu_adam doctor $(ARGS)

# The PATH is for the commands whose help the site shows.
docs: $(STAMPS)/docs  ## build the documentation into build/docs; Python 3.11 or newer
	PATH="$(BIN):$$PATH" $(PY) -m sphinx -W --keep-going --quiet docs build/docs $(ARGS)
	@echo "build/docs/index.html"

# One resolution for Linux on x86-64 and aarch64 and for every Python from 3.11. What is pinned stays as it is unless ARGS=--upgrade.
lock = $(BIN)/uv pip compile --no-config $(1) --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
  --custom-compile-command "make lock" --output-file docker/requirements-$(2).lock $(ARGS)

lock: | $(PY)  ## pin what the container images install: docker/*.lock
	@$(PY) -m pip install --disable-pip-version-check --quiet $(UV)
	$(call lock,pyproject.toml --extra proof,cpu)
	$(call lock,pyproject.toml --extra train-cuda12,cuda12)
	$(call lock,pyproject.toml --extra train-cuda13,cuda13)
	sed -n 's/^requires = \["\(.*\)"\].*/\1/p' pyproject.toml | $(call lock,-,build)

image-check:  ## build the container images without a Docker engine and run them; Debian or Ubuntu, as root
	$(PYTHON) docker/check.py $(ARGS)

PYTHON_CODE := gpu_adam kernels tests benchmarks examples docker docs setup.py
CPP_CODE = $(shell find kernels tests benchmarks -name '*.cu' -o -name '*.cuh' -o -name '*.h' -o -name '*.hpp' -o -name '*.cpp')
# mypy sees the package as it is installed, the kernels inside it.
TYPES := build/types

lint: $(STAMPS)/lint  ## check format, style and types, and the workflows
	@rm -rf $(TYPES) && mkdir -p $(TYPES)/gpu_adam
	@ln -s $(CURDIR)/gpu_adam/* $(CURDIR)/kernels $(TYPES)/gpu_adam/
	@$(PY) -m gpu_adam.kernels.header > $(TYPES)/abi.cuh
	@failed=; \
	check() { echo "$$*"; "$$@" || failed="$$failed $$(basename $$1)"; }; \
	check $(BIN)/ruff format --check $(PYTHON_CODE); \
	check $(BIN)/ruff check $(PYTHON_CODE); \
	check $(BIN)/clang-format --dry-run -Werror $(CPP_CODE) $(TYPES)/abi.cuh; \
	check $(BIN)/yamllint --strict -c .github/yamllint.yml .github; \
	check $(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml; \
	check $(BIN)/zizmor --offline --quiet --config .github/zizmor.yml .github/workflows; \
	check $(BIN)/hadolint docker/Dockerfile; \
	check $(BIN)/shellcheck docker/build.sh; \
	check $(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml; \
	cd $(TYPES) && check $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p gpu_adam; \
	[ -z "$$failed" ] || { echo "lint failed:$$failed" >&2; exit 1; }

format: $(STAMPS)/lint  ## rewrite the files as lint wants them
	$(BIN)/ruff check --fix --exit-zero $(PYTHON_CODE)
	$(BIN)/ruff format $(PYTHON_CODE)
	$(BIN)/clang-format -i $(CPP_CODE)

# From the commit and not from this folder, so that nothing comes in by accident, and at the commit's time, so that the bytes are the same
# whenever and wherever it is done (with the same Python: its zlib compresses).
dist: $(STAMPS)/dist  ## build the last commit's source distribution and wheel into dist/, reproducibly, and check them
	@rm -rf dist build/dist && mkdir -p build/dist
	git archive HEAD | tar -x -C build/dist
	umask 022 && SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(PY) -m build --no-isolation --outdir $(CURDIR)/dist build/dist
	$(PY) -m twine check --strict dist/*
	@cd dist && sha256sum *

# With TAG=v1.2.3 it must be this version's tag.
version = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' gpu_adam/__init__.py)
notes:  ## print what CHANGELOG.md says of this version
	@[ "$${TAG:-v$(version)}" = "v$(version)" ] || { echo "the tag is $$TAG, and gpu_adam.__version__ is $(version)" >&2; exit 1; }
	@awk -v heading='## [$(version)]' '/^## / { on = index($$0, heading) == 1; found += on; next } on; END { exit !found }' CHANGELOG.md \
	  || { echo "CHANGELOG.md has no section [$(version)]" >&2; exit 1; }

clean:  ## remove builds and caches; the environment stays
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find gpu_adam kernels tests benchmarks examples docker -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove the environment as well
	rm -rf $(VENV)
