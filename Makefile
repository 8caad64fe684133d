# Every set-up step is here; the two commands that matter are `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FOLDERS := frontends protocols training
CLIP := tests/data/speech.flac

.PHONY: demo test test-slow lint typecheck clean

demo: $(STAMP)
	$(BIN)/streamdac live --input $(CLIP) --output demo/speech-coded.wav --plot demo/spectrogram.png --force
	@echo "listen to demo/speech-coded.wav beside $(CLIP); the picture is demo/spectrogram.png"

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy would check streamdac/ alone and call it success: give it one tree with all four packages.
typecheck: $(STAMP)
	rm -rf .typed && mkdir -p .typed/streamdac
	ln -s $(addprefix $(CURDIR)/,$(wildcard streamdac/*) $(FOLDERS)) .typed/streamdac/
	cd .typed && ../$(BIN)/mypy -p streamdac --config-file ../setup.cfg

$(STAMP): setup.cfg pyproject.toml constraints.txt $(wildcard setup.py)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[live,websocket,plot,train,test,dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) .typed build demo *.egg-info
