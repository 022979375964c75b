# The commands of the project. `make` alone lists them. Everything runs in VENV, made and filled on first use.
# An environment of your own:  make test VENV=/path/to/venv
# Another build of PyTorch:    make test TORCH="torch torchvision --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
CABRNET_VENV ?= .venv-cabrnet
TORCH ?= torch torchvision
WORKERS ?= 2
BENCH ?=

BIN := $(VENV)/bin
DEMO := runs/demo
NATIVE_SOURCES := $(wildcard setup.py CMakeLists.txt build_tools/*.py) $(shell find csrc -type f 2>/dev/null)
CPP_SOURCES := $(filter %.cpp %.h %.hpp %.cu %.cuh,$(NATIVE_SOURCES))

.DEFAULT_GOAL := help
.PHONY: help install demo test test-cpp test-gpu test-cabrnet check format bench bench-gpu clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

install: $(VENV)/.installed ## Make the environment, build the C++ and install the package in place

# PyTorch comes first and on its own: the C++ is built against it, and it is the one large download.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "PYTHON: must be Python 3.11 or newer; got " + sys.version.split()[0] + ". Run make PYTHON=/path/to/python3.11.")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24'
	$(BIN)/python -m pip install --quiet $(TORCH)
	@touch $@

# --no-build-isolation: build against the PyTorch of this environment instead of downloading another one.
$(VENV)/.installed: $(VENV)/.torch pyproject.toml $(NATIVE_SOURCES)
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > $(VENV)/build-requires.txt
	$(BIN)/python -m pip install --quiet -r $(VENV)/build-requires.txt
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation -e '.[dev]'
	@touch $@

demo: install ## Train ProtoPNet on synthetic birds, push, prune, explain; ends in runs/demo/report/index.html
	rm -rf $(DEMO)
	$(BIN)/protokern train --config examples/configs/demo.toml --out $(DEMO)
	@$(BIN)/python examples/demo.py $(DEMO) $(DEMO)/bird.png > $(DEMO)/numbers.txt
	$(BIN)/protokern explain $(DEMO) $(DEMO)/bird.png --out $(DEMO)/explained
	@cat $(DEMO)/numbers.txt
	@echo "report: $(abspath $(DEMO))/report/index.html"

test: install ## Run all tests that need no GPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not gpu"

test-cabrnet: ## Run the tests inside CaBRNet 1.2, in an environment of its own (Python 3.12 or older)
	$(MAKE) --no-print-directory install VENV=$(CABRNET_VENV)
	$(CABRNET_VENV)/bin/python -m pip install --quiet 'cabrnet==1.2.*'
	OMP_NUM_THREADS=1 $(CABRNET_VENV)/bin/python -m pytest -rs tests/interop

test-gpu: install ## Run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

check: install ## Lint, formatting, types, import rules, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell $(shell git ls-files '*.py' '*.md' '*.toml' '*.h' '*.cpp' '*.cu' '*.cuh' Makefile)
	$(if $(CPP_SOURCES),$(BIN)/clang-format --dry-run --Werror $(CPP_SOURCES))

format: install ## Rewrite the sources the way `check` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(CPP_SOURCES),$(BIN)/clang-format -i $(CPP_SOURCES))

bench: install ## Measure on this CPU and store the rows in benchmarks/results (quiet machine, see benchmarks/README.md)
	$(BIN)/python -m benchmarks.run $(BENCH)
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.table --write

bench-gpu: install ## Measure on a CUDA device (follows with the CUDA kernels)
	$(BIN)/python -m benchmarks.run --device cuda $(BENCH)

test-cpp: install ## Build the C++ core with CMake alone and run its tests
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B build/test -G Ninja -DPROTOKERN_TESTS=ON
	PATH="$(abspath $(BIN)):$$PATH" cmake --build build/test
	PATH="$(abspath $(BIN)):$$PATH" ctest --test-dir build/test --output-on-failure

clean: ## Remove what was built; runs and downloaded packages stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -rf protokern/lib protokern/*.so $(VENV)/.installed
