# The project's commands. With Python >= 3.10 (and venv) and a C++20 compiler, `make bench` and `make test` need nothing else:
# they make a virtual environment, install torch and the package into it (once), and run.
#
#   make bench    set up; parity and speed against torch.nn, the features, the character language model; report in build/report
#   make test     set up; all tests          make native   the torch-free C++ tests alone
#   make test-fast    the tests that take a few minutes: no sanitizers, examples and compilers of torch
#   make lint     formatters, linters, types make format   rewrite the sources in the project's layout
#   make docs     the documentation site into build/docs (warnings are errors); make docs-links asks its external links, too
#   make wheel    a wheel without torch's libraries into build/wheels, tried beside the oldest torch and the newest
#   make perf-check   register tiles against the processor's peak, instructions of each schedule (UPDATE=1 records them)
#   make library  the C and C++ library of streams with its tests, by CMake, without torch or Python
#   make fuzz     libFuzzer of Clang on damaged and on made-up models, for FUZZ_SECONDS (600)
#   make build    compile what changed       make clean    remove what was built (the virtual environment stays)
#
# Variables: PYTHON (which makes the environment), VENV (where), TORCH (what pip installs as torch, options included, such as
# TORCH="torch==2.11.0"), CXX (the compiler), MAX_JOBS (parallel compilations), FUSED_RNN_WERROR=1 (warnings are errors).
# CUDA kernels: those of this machine's GPUs, none without one; CUDA=1 compiles for all common ones, CUDA=0 for none, and
# TORCH_CUDA_ARCH_LIST (such as "8.0 9.0a 12.0+PTX") names them. CUDA_HOME is the toolkit, else the nvcc in PATH.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
FUZZ_SECONDS ?= 600
FUZZ_UNITS ?= baseline

CUDA ?= visible
export FUSED_RNN_CUDA ?= $(CUDA)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
BUILD_REQUIREMENTS := "setuptools>=77" wheel "ninja>=1.11" "pybind11>=2.13"
SPHINX := $(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --nitpicky --doctree-dir build/docs-trees
TORCH_LIBRARIES := libtorch*.so libc10*.so
CXX_SOURCES = $(shell find csrc include examples/realtime tests/native tests/stream tests/operators tests/cuda_on_cpu tools/micro tools/native -name '*.h' -o -name '*.hpp' -o -name '*.c' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')
NATIVE_TESTS = $(wildcard tests/native/*.cpp)

.DEFAULT_GOAL := help
.PHONY: help bench test test-fast native library fuzz perf-check build cpu-objects docs docs-links wheel lint format clean FORCE

help:
	@sed -n 's/^#   //p' Makefile

bench: $(VENV)/.installed-bench build
	$(BIN)/python -m bench all --report build/report

# Two processes, a file at a time, in the order of tests/conftest.py: what takes longest comes first.
test: $(VENV)/.installed-dev build
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# SLOW in tests/conftest.py names what is left out.
test-fast: $(VENV)/.installed-dev build
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not slow"

native: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/test_native.py

library:
	cmake -B build/cmake -DFUSED_RNN_WERROR=$(if $(FUSED_RNN_WERROR),$(FUSED_RNN_WERROR),0)
	cmake --build build/cmake --parallel $(MAX_JOBS)
	ctest --test-dir build/cmake --output-on-failure

# A file that fails stays in build/fuzz; `build/fuzz/tests/stream/fuzz_model FILE` runs it again. Wider instruction sets
# take Clang many minutes with sanitizers; FUZZ_UNITS="baseline;avx2" adds one.
fuzz:
	cmake -B build/fuzz -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DFUSED_RNN_BUILD_FUZZER=ON "-DFUSED_RNN_UNITS=$(FUZZ_UNITS)"
	cmake --build build/fuzz --parallel $(MAX_JOBS) --target fuzz_model
	mkdir -p build/fuzz/corpus
	cp tests/stream/*.frnn build/fuzz/corpus
	build/fuzz/tests/stream/fuzz_model -max_total_time=$(FUZZ_SECONDS) -max_len=131072 -rss_limit_mb=4096 -artifact_prefix=build/fuzz/ build/fuzz/corpus

# Compiles programs of its own; neither torch nor the environment is needed.
perf-check:
	$(PYTHON) -m tools.perf_check $(if $(UPDATE),--update)

# The reference comes from docstrings, so the package is imported.
docs: $(VENV)/.installed-docs build
	$(SPHINX) --builder html docs build/docs
	@echo "The site begins at build/docs/index.html"

docs-links: $(VENV)/.installed-docs build
	$(SPHINX) --builder linkcheck docs build/docs-links

# The same objects as those of `build`. auditwheel finds patchelf in PATH; pyproject.toml names the libraries for cibuildwheel.
wheel: $(VENV)/.installed-wheel
	rm -rf build/wheels
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir build/wheels/unrepaired .
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair $(TORCH_LIBRARIES:%=--exclude '%') --wheel-dir build/wheels build/wheels/unrepaired/*.whl
	rm -r build/wheels/unrepaired
	$(BIN)/python -m tools.check_wheel build/wheels/*.whl

# ninja compiles what changed since the last time; $(VENV)/.torch is what compiling needs.
build: $(VENV)/.torch
	$(BIN)/python setup.py --quiet build_ext --inplace

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)
	$(BIN)/clang-tidy --quiet $(NATIVE_TESTS) -- -std=c++20 -Icsrc -Itests/native

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis fused_rnn/*.so
	find bench build_support csrc examples fused_rnn tests tools -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# What needs no torch can be compiled while torch and what extras need arrive (.ci/run).
cpu-objects: $(VENV)/.compiling
	$(BIN)/python -m build_support.ninja

# The environment, with what compiles.
$(VENV)/.compiling:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --no-compile $(BUILD_REQUIREMENTS)
	@touch $@

# The same with torch; the stamp holds the TORCH it was made for, so that another TORCH is installed over it.
$(VENV)/.torch: $(VENV)/.compiling FORCE
	@if [ "$$(cat $@ 2>/dev/null)" != '$(TORCH)' ]; then \
	  set -ex; \
	  $(PIP) install --no-compile $(TORCH); \
	  printf '%s\n' '$(TORCH)' > $@; \
	fi

# What an extra needs from elsewhere.
$(VENV)/.requirements-%: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m build_support.requirements $* > $@.txt
	$(PIP) install --no-compile --requirement $@.txt
	@touch $@

# The package, editable, with the extras of the goal.
$(VENV)/.installed-%: $(VENV)/.torch pyproject.toml setup.py $(wildcard build_support/*.py)
	$(PIP) install --no-compile --no-build-isolation --editable ".[$*]"
	@touch $@
