# Every set-up step is here; the two commands that matter are `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What the demonstration needs, and no more: it shall work where nothing can be compiled.
DEMO_STAMP := $(VENV)/.installed-for-demo
FOLDERS := frontends protocols training
CLIP := tests/data/speech.flac

# Work of this size is fastest on one thread, and tests start processes of their own.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: install demo test test-slow coverage fuzz sanitize lint typecheck clean

install: $(STAMP)

demo: $(if $(wildcard $(STAMP)),$(STAMP),$(DEMO_STAMP))
	$(BIN)/streamdac live --input $(CLIP) --output demo/speech-coded.wav --plot demo/spectrogram.png --force
	@echo "listen to demo/speech-coded.wav beside $(CLIP); the picture is demo/spectrogram.png"

test: $(STAMP)
	$(PYTEST) -m "not slow"

test-slow: $(STAMP)
	$(PYTEST) -m slow

# The protocol's core is covered whole, every branch of it.
coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/coverage run --branch --source protocols -m pytest -q tests/protocols
	$(BIN)/coverage report -m --fail-under=100

fuzz: $(STAMP)
	$(BIN)/python -m tests.archive.fuzz --count 200000
	$(BIN)/python -m tests.protocols.fuzz --count 1000000

sanitize: $(STAMP)
	PYTHON=$(CURDIR)/$(BIN)/python bash tests/native/sanitize.sh

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy would check streamdac/ alone and call it success: give it one tree with all four packages.
typecheck: $(STAMP)
	rm -rf .typed && mkdir -p .typed/streamdac
	ln -s $(addprefix $(CURDIR)/,$(wildcard streamdac/*) $(FOLDERS)) .typed/streamdac/
	cd .typed && ../$(BIN)/mypy -p streamdac --config-file ../setup.cfg

$(STAMP): EXTRAS := live,websocket,plot,train,eval,test,dev
$(DEMO_STAMP): EXTRAS := live,websocket,plot
$(STAMP) $(DEMO_STAMP): setup.cfg pyproject.toml constraints.txt $(wildcard setup.py)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf $(VENV) .typed build demo *.egg-info
