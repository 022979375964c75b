# The commands of the project; `make` alone lists them. They run in VENV, which the first one creates.
# Another environment:          make test VENV=/path/to/venv
# Another build of PyTorch:    make test TORCH="torch torchvision --index-url https://download.pytorch.org/whl/cpu"
# The newest packages:         make test CONSTRAINTS= VENV=.venv-newest
# No environment, no network:  make test-gpu bench-gpu INSTALL=no
#                              uses PYTHON and the tools on the PATH as they are; the C++ is built in place

PYTHON ?= python3
VENV ?= .venv
OLDEST_VENV ?= .venv-oldest
NEWEST_VENV ?= .venv-newest
CABRNET_VENV ?= .venv-cabrnet
INSTALL ?= yes
# The extra of pyproject.toml to install: dev is test and lint.
EXTRA ?= dev
# The versions to install; empty for the newest that pyproject.toml allows.
CONSTRAINTS ?= build_tools/constraints.txt
TORCH ?= torch torchvision
WORKERS ?= 2
GPU_WORKERS ?= 8
PYTHONS ?=
BENCH ?=
GPU ?=

ifeq ($(INSTALL),no)
BIN :=
RUN := $(PYTHON)
READY := build/.in-place
else
BIN := $(VENV)/bin/
RUN := $(BIN)python
READY := $(VENV)/.installed
endif
# Tools that call other tools find those of the environment first.
WITH_PATH := $(if $(BIN),PATH="$(abspath $(BIN)):$$PATH")
# The folders whose tests may be marked gpu; the others import packages that a measuring machine need not have.
GPU_TESTS := $(wildcard tests/kernels tests/nn tests/gpu)
DEMO := runs/demo
NATIVE_SOURCES := $(wildcard setup.py CMakeLists.txt build_tools/*.py) $(shell find csrc -type f 2>/dev/null)
CPP_SOURCES := $(filter %.cpp %.h %.hpp %.cu %.cuh,$(NATIVE_SOURCES))

.DEFAULT_GOAL := help
.PHONY: help install browser demo test test-cpp test-gpu test-cabrnet test-oldest update-constraints test-arm check format bench bench-gpu gpu tune release clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

install: $(READY) ## Make the environment, build the C++ and install the package in place

# A set-up prints one line per step; the output of pip and the compilers goes to a file, and is shown if a step fails.
STEP = @build_tools/step.sh $(VENV)/set-up.log
PIP_INSTALL = $(BIN)python -m pip install $(if $(CONSTRAINTS),-c $(CONSTRAINTS))

# PyTorch comes first and separately: the C++ is built against it, and it is the one large download.
$(VENV)/.torch: $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "PYTHON: must be Python 3.11 or newer; got " + sys.version.split()[0] + ". Run make PYTHON=/path/to/python3.11.")'
	@test -x $(BIN)python || build_tools/step.sh build/venv.log "environment $(VENV)" $(PYTHON) -m venv $(VENV)
	$(STEP) "pip" $(PIP_INSTALL) --upgrade 'pip>=24'
	$(STEP) "PyTorch: $(TORCH)" $(PIP_INSTALL) $(TORCH)
	@touch $@

# --no-build-isolation: build against the PyTorch of this environment instead of downloading another one.
$(VENV)/.installed: $(VENV)/.torch pyproject.toml $(NATIVE_SOURCES)
	@$(BIN)python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > $(VENV)/build-requires.txt
	$(STEP) "what the build needs" $(PIP_INSTALL) -r $(VENV)/build-requires.txt
	$(STEP) "protokern with its C++, and the tools of its tests" \
		env PATH="$(abspath $(BIN)):$$PATH" $(PIP_INSTALL) --verbose --no-build-isolation -e '.[$(EXTRA)]'
	@sed -n 's/.*\(protokern is installed without its CUDA library.*\)/set-up: \1/p' $(VENV)/set-up.log
	@$(BIN)python -c 'from protokern import available_backends as backends; native = backends()["native"]; native.available or print("set-up: WITHOUT the C++:", native.reason, "Why: $(VENV)/set-up.log.")'
	@touch $@

build/.in-place: $(NATIVE_SOURCES)
	$(RUN) setup.py --quiet build_ext --inplace
	@mkdir -p build && touch $@

demo: install ## Train ProtoPNet on synthetic birds, push, prune, explain and say why; ends in runs/demo/report/index.html
	rm -rf $(DEMO)
	$(RUN) -m protokern train --config examples/configs/demo.toml --out $(DEMO) --no-report
	@$(RUN) examples/demo.py $(DEMO) $(DEMO)/bird.png > $(DEMO)/numbers.txt
	$(RUN) -m protokern explain $(DEMO) $(DEMO)/bird.png --out $(DEMO)/explained
	$(RUN) -m protokern importance $(DEMO) --set data.birds_train=20 --set data.birds_test=10
	$(RUN) -m protokern report $(DEMO)
	@cat $(DEMO)/numbers.txt
	@echo "report: $(abspath $(DEMO))/report/index.html"

test: install ## Run all tests that need no GPU
	OMP_NUM_THREADS=1 $(RUN) -m pytest -rs -n $(WORKERS) -m "not gpu"

# Never fails: without a browser the tests that need one are skipped, and say so.
browser: ## Install Chromium for the tests of the report's page, if it is missing and apt-get may
	@if command -v chromium > /dev/null; then echo "browser: $$(command -v chromium)"; \
	elif [ "$$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then \
	    echo "browser: Chromium is missing, and only root with apt-get can install it; its tests will be skipped"; \
	else \
	    export DEBIAN_FRONTEND=noninteractive; \
	    { timeout 120 apt-get update -qq && timeout 480 apt-get install -y -qq --no-install-recommends chromium; } \
	        > /dev/null 2>&1 && echo "browser: installed Chromium" \
	        || echo "browser: apt-get could not install Chromium; its tests will be skipped"; \
	fi

test-cabrnet: ## Run the tests inside CaBRNet 1.2, in a separate environment (Python 3.12 or older)
	$(MAKE) --no-print-directory install VENV=$(CABRNET_VENV) CONSTRAINTS=
	@build_tools/step.sh $(CABRNET_VENV)/set-up.log "CaBRNet" $(CABRNET_VENV)/bin/python -m pip install 'cabrnet==1.2.*'
	OMP_NUM_THREADS=1 $(CABRNET_VENV)/bin/python -m pytest -rs tests/interop

# Warnings are not errors here, because the versions on a machine with a GPU may be any.
test-gpu: install ## Run the tests that need a CUDA device
	$(RUN) -m pytest -q -m gpu -n $(GPU_WORKERS) -W default --tb=short --maxfail=20 --durations=5 $(GPU_TESTS)

check: install ## Lint, formatting, types, import rules, spelling
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)mypy
	$(BIN)lint-imports --no-cache
	$(BIN)codespell $(shell git ls-files '*.py' '*.md' '*.toml' '*.h' '*.cpp' '*.cu' '*.cuh' Makefile)
	$(if $(CPP_SOURCES),$(BIN)clang-format --dry-run --Werror $(CPP_SOURCES))

format: install ## Rewrite the sources as `check` wants them
	$(BIN)ruff check --fix .
	$(BIN)ruff format .
	$(RUN) build_tools/settings_table.py
	$(if $(CPP_SOURCES),$(BIN)clang-format -i $(CPP_SOURCES))

bench: install ## Measure on this CPU and store the rows in benchmarks/results (quiet machine, see benchmarks/README.md)
	$(RUN) -m benchmarks ops --seconds 3 --minutes 5 $(BENCH)
	@if $(RUN) -c 'import sys; from protokern import _host; sys.exit(_host.chosen_instruction_set() != "amx")'; then \
	    PROTOKERN_ISA=avx512 $(RUN) -m benchmarks ops --set isa --seconds 1 --minutes 2; fi
	$(RUN) -m benchmarks memory
	$(RUN) -m benchmarks tables --write
	$(RUN) -m benchmarks scaling --write
	$(RUN) -m benchmarks plot --write
	@$(RUN) -m benchmarks summary

# A backend with wrong answers or errors fails the target at the end; the others are still measured.
bench-gpu: install ## Measure on a CUDA device and store the rows; below eight minutes, no network
	@status=0; \
	$(RUN) -m benchmarks ops --device cuda --seconds 3 --minutes 6 $(BENCH) || status=1; \
	$(RUN) -m benchmarks memory --device cuda || status=1; \
	$(RUN) -m benchmarks tables --write > /dev/null || status=1; \
	$(RUN) -m benchmarks plot --write || status=1; \
	$(RUN) -m benchmarks summary --device cuda || status=1; \
	exit $$status

# With INSTALL=no nothing runs before the clock starts: the first stage builds what is missing.
gpu: $(if $(filter no,$(INSTALL)),,install) ## Everything that needs a CUDA device, within nine minutes; OUT=DIR: results go there too
	$(RUN) -m benchmarks gpu $(if $(OUT),--out '$(OUT)') $(GPU)

tune: install ## Measure tiles of the Triton kernels on a CUDA device and store the best in the table
	$(RUN) -m benchmarks tune

# Run by hand: five gigabytes. docs/compatibility.md has the last result. The checkers are left out: they need newer packages.
test-oldest: ## Run the tests on the oldest supported packages, in OLDEST_VENV
	$(MAKE) test VENV=$(OLDEST_VENV) CONSTRAINTS=build_tools/constraints-oldest.txt EXTRA=test

# Run by hand, like the one above. The file is written only if everything has passed.
update-constraints: ## Install the newest packages in NEWEST_VENV, check and test, and pin their versions for make
	rm -rf $(NEWEST_VENV)
	$(MAKE) --no-print-directory check test VENV=$(NEWEST_VENV) CONSTRAINTS=
	$(NEWEST_VENV)/bin/python build_tools/write_constraints.py build_tools/constraints.txt

# Under sanitizers the tiles of two sets are left out: they are compiled from the same lines as those of avx512.
test-cpp: install ## Build the C++ core with CMake alone, run its tests, also under sanitizers; compile the CUDA kernels if nvcc is there
	$(WITH_PATH) cmake -S . -B build/test -G Ninja -DPROTOKERN_TESTS=ON
	$(WITH_PATH) cmake --build build/test
	$(WITH_PATH) ctest --test-dir build/test --output-on-failure -j 2
	$(WITH_PATH) cmake -S . -B build/sanitized -G Ninja -DPROTOKERN_TESTS=ON -DPROTOKERN_SANITIZE=ON
	$(WITH_PATH) cmake --build build/sanitized
	$(WITH_PATH) ctest --test-dir build/sanitized --output-on-failure -j 2 -E '^tiles_(avx512bf16|amx)$$'
	$(RUN) csrc/tests/cuda_resources.py

# Needs a cross compiler and an emulator: apt-get install g++-aarch64-linux-gnu qemu-user
test-arm: ## Build the C++ core for Arm (aarch64) and run its tests in an emulator
	$(WITH_PATH) cmake -S . -B build/arm -G Ninja -DPROTOKERN_TESTS=ON -DCMAKE_SYSTEM_NAME=Linux \
		-DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static \
		-DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64
	$(WITH_PATH) cmake --build build/arm --target test_forward test_backward test_tiles test_weights
	$(WITH_PATH) ctest --test-dir build/arm --output-on-failure -R '^(forward|backward|tiles|weights)_'

# PYTHONS: versions or paths, such as PYTHONS="3.12 /opt/python3.14/bin/python3"; by default those of 3.11 to 3.14 on the PATH.
release: install ## Build sdist and wheel into dist, check them with auditwheel, try the wheel in clean environments of PYTHONS
	@mkdir -p build
	@$(BIN)python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["release"], sep="\n")' > build/release-requires.txt
	$(STEP) "what a release needs" $(BIN)python -m pip install -r build/release-requires.txt
	@$(WITH_PATH) $(RUN) build_tools/release.py --torch '$(TORCH)' $(PYTHONS)

clean: ## Remove build outputs; keep runs and downloaded packages
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -rf protokern/lib protokern/*.so $(VENV)/.installed
