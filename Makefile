# Both commands do all the set-up on a fresh machine with Python >= 3.11 and make.
PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,$(shell $(p) -c "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && echo $(p))))
VENV ?= .venv
BIN := $(VENV)/bin
# where signatures carry shapes; the tests run them
CHECKED := linmem.core,linmem.worlds,linmem.certificates,linmem.memories,linmem.tasks,linmem.agents,linmem.measures,linmem.experiments

.PHONY: demo test lint clean

demo: $(VENV)/.package
	$(BIN)/linmem run

# lint runs beside the tests; one worker runs a file, so that what was compiled for one test serves the next
test: $(VENV)/.tests
	@$(MAKE) --no-print-directory lint & lint=$$!; \
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --jaxtyping-packages=$(CHECKED),beartype.beartype; \
	tests=$$?; wait $$lint && exit $$tests

lint: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	NODE_OPTIONS=--max-semi-space-size=128 $(BIN)/pyright --pythonpath $(BIN)/python

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 with venv was found; install one, or name it: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# uv takes half the time that pip does. Python writes bytecode for what is imported, when it first is; tests are
# several processes that import the same at once, so there both cores write it before.
INSTALL := $(BIN)/python -m uv pip install --quiet --python $(BIN)/python
UV := $(BIN)/python -m pip install --quiet --no-compile "uv>=0.5,<1"

KERNELS := hatch_build.py $(wildcard src/linmem/core/native/*.cpp src/linmem/core/native/*.h)

$(VENV)/.package: $(BIN)/python pyproject.toml $(KERNELS)
	$(UV)
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.tests: $(BIN)/python pyproject.toml $(KERNELS)
	$(UV)
	$(INSTALL) --editable ".[test]"
	-$(BIN)/python -m compileall -q -j 0 -x '/tests?/' $(VENV)/lib
	@touch $(VENV)/.package $@

clean:
	rm -rf $(VENV)
