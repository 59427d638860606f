# make demo [DATA=folder] | make check [PART=...] | make test | make lint | make docs | make bench | make bench-quick
#   | make plots
#
# check tests what changed since main, in minutes; PART="ops training/test_ema.py conv" names the tests instead.
# bench measures everything and writes benchmarks/results, in an hour; bench-quick takes a look in minutes and writes
# nothing; plots draws what was measured. BENCH="--threads 1 2 --compile" gives options of benchmarks/README.md.
#
# Each sets up .venv first: it needs Python 3.10 or newer, a C++ compiler and make.
#
# make gpu-check [PART=tests|bench|train] [DATA=folder] [MINUTES=m]
#
# Sets up nothing and downloads nothing; docs/cuda.md says what must be there.
#
#   PYTHON=python3.12     another Python
#   TORCH=torch==2.11.0   another torch
#   MAX_JOBS=2            fewer compilers at a time
#   SDGAN_CUDA=ON         the CUDA kernels for a torch without CUDA, too

PYTHON ?= python3
TORCH ?= torch==2.13.0
DATA ?= $(if $(wildcard data/mnist/t*-images*),data/mnist,auto)

BIN := .venv/bin
NATIVE = build/native-$(shell $(BIN)/python -c 'import sys; print(sys.implementation.cache_tag)')
# Those of pyproject.toml; torch, whose version is TORCH's, comes before them.
BUILD_REQUIRES := $(shell sed -n 's/^requires = \[\(.*\), "torch.*\]/\1/p' pyproject.toml | tr -d ,)
NATIVE_SOURCES := CMakeLists.txt setup.py $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
# Where PyTorch's own wheels without CUDA are asked for: Linux, no NVIDIA driver, no package index of the user's choice.
CPU_WHEELS = [ "$$(uname -s)" != Linux ] || command -v nvidia-smi >&2 \
	|| $(BIN)/pip config list | grep -qE 'index|find-links' || echo --extra-index-url https://download.pytorch.org/whl/cpu

.PHONY: demo check test docs bench bench-quick plots gpu-check lint clean

demo: .venv/installed
	$(BIN)/sdgan-ext train --preset mnist-small --data $(DATA)

check: .venv/dev
	$(BIN)/python python_tests/check.py $(PART)

# Two files at a time, and a file by one process: some train once for all of their tests.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# On the sanitizers' build of the operators. Their libraries are GCC's; Python and torch are not instrumented.
SANITIZED = LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 SDGAN_TEST_NATIVE="$$(echo $(CURDIR)/build/sanitize/_C*.so)" \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --capture=sys

test: .venv/dev
	$(BIN)/cmake -DSDGAN_TESTS=ON $(NATIVE)
	$(BIN)/cmake --build $(NATIVE)
	$(BIN)/ctest --test-dir $(NATIVE) --output-on-failure -j 2
	sed -nE 's/^(SDGAN_(TORCH_[A-Z]+|VERSION)|pybind11_DIR|Python_EXECUTABLE):/-D&/p' $(NATIVE)/CMakeCache.txt | tr '\n' '\0' \
		| xargs -0 $(BIN)/cmake -S . -B build/sanitize -G Ninja -DSDGAN_TESTS=ON -DSDGAN_SANITIZE=ON -DSDGAN_CUDA=OFF \
		-DSDGAN_WERROR=$(or $(SDGAN_WERROR),OFF)
	$(BIN)/cmake --build build/sanitize
	$(BIN)/ctest --test-dir build/sanitize --output-on-failure -j 2
	$(SANITIZED) python_tests/fuzz/test_native_ops.py
	$(PYTEST) $(COVERAGE)
	SDGAN_TEST_NATIVE="$$(echo $(CURDIR)/$(NATIVE)/cuda_on_host/_C*.so)" $(PYTEST) python_tests/ops python_tests/nn

BENCHMARKS = $(BIN)/python -m pytest -q -s benchmarks/bench_*.py --benchmark-group-by=group --benchmark-sort=fullname \
	--benchmark-columns=min,median,max,rounds

bench: .venv/dev
	$(BENCHMARKS) $(BENCH)

bench-quick: .venv/dev
	$(BENCHMARKS) --quick $(BENCH)

plots: .venv/dev
	$(BIN)/python benchmarks/plot.py

gpu-check:
	@PYTHONPATH="benchmarks$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) -m gpu.check --part $(or $(PART),all) --data $(DATA) $(if $(MINUTES),--minutes $(MINUTES))

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files -z '*.cpp' '*.h' '*.cu' '*.cuh' | xargs -0 $(BIN)/clang-format --dry-run --Werror
	git ls-files -z '*.py' '*.cpp' '*.h' '*.cu' '*.cuh' | xargs -0 $(BIN)/python .ci/lines.py

docs: .venv/dev
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv build dist *.egg-info sdgan_ext/_C.*.so

# ------------------------------------------------------------------------------------------------------ set-up
.venv/torch: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "sdgan_ext: Python 3.10 or newer is needed, '$(PYTHON)' is not; run \`make PYTHON=python3.12\`"; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 14))' \
		|| echo "sdgan_ext: '$(PYTHON)' is newer than Python 3.10 to 3.13, which are tested" >&2
	@$(PYTHON) -c 'import venv, ensurepip' \
		|| { echo "sdgan_ext: Python's venv module is missing; run \`apt-get install python3-venv\`"; exit 1; } >&2
	$(PYTHON) -m venv .venv
	$(BIN)/pip install $$($(CPU_WHEELS)) $(TORCH)
	$(BIN)/pip install $(BUILD_REQUIRES)
	@touch $@

# Before pip, which would compile behind a silent line: here each file that is compiled has a line.
.venv/native: .venv/torch $(NATIVE_SOURCES)
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

.venv/installed: .venv/torch | .venv/native
	$(BIN)/pip install --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/installed
	$(BIN)/pip install --no-build-isolation -e '.[dev]'
	@touch $@
