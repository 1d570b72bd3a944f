# make demo     sets everything up and runs the main job: digits to a served, quantized model
# make test     sets everything up and passes all checks: lint, types, imports, tests
# make install  only makes .venv

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
WORKERS ?= 2
STAMP  := $(VENV)/.installed

.PHONY: install demo test lint tests schema clean

install: $(STAMP)

$(STAMP): pyproject.toml CMakeLists.txt $(wildcard stages/train/native/* stages/train/*/native/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[cpu,dev]'
	touch $@

demo: install
	$(BIN)/dlpipe run configs/quickstart.yaml

test: lint tests

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

tests: install
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

schema: install
	$(BIN)/dlpipe schema --output configs/schema.json

clean:
	rm -rf $(VENV) runs build *.egg-info
