# make quickstart   train BERT twice, plainly and with token dropping, and compare
# make test         lint, then every test
# make help         everything else
#
# Each installs what it needs into .venv first; only the first call takes long.
# PYTHON=/path/to/python3.12 chooses the Python of a .venv that is yet to be made.

PYTHON ?=
CORPUS ?=
OUTPUT ?=
# Each imports TensorFlow once and takes up to 4 GB.
TEST_PROCESSES ?= 2
VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/installed.stamp
INSTALL_LOG := $(VENV)/install.log

PIP_INSTALL := $(VENV_PYTHON) -m pip install --progress-bar off \
  --disable-pip-version-check

# The shell expands this: the first Python of the supported range that can make
# virtual environments.
PYTHON_CANDIDATES := python3.11 python3.12 python3.13 python3.10 python3 python
PYTHON_CHECK := import ensurepip, venv, sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-faults test-hugging-face test-beam install-tpu-compiler test-tpu-compile lint format docs constraints wheel clean

help:
	@echo 'make quickstart   train twice, plainly and with token dropping, and compare'
	@echo "                  CORPUS='texts/*.txt.gz'  on your own text"
	@echo '                  QUICKSTART_MINUTES=60    a longer, better run (default 10)'
	@echo '                  CASED=1                  keeps capitals and accents'
	@echo '                  OUTPUT=runs/mine         where it lies (default runs/quickstart)'
	@echo 'make test         lint, then every test'
	@echo 'make test-faults  kill, starve and damage trainings: an hour'
	@echo 'make test-hugging-face'
	@echo '                  compare the Hugging Face export with transformers and PyTorch,'
	@echo '                  which it installs into .venv-hf: about 6 GB'
	@echo 'make test-beam    compare the Apache Beam pipeline with the tools, in .venv-beam'
	@echo 'make test-tpu-compile  compile every TPU experiment with the real TPU compiler,'
	@echo '                  in .venv-tpu;  make install-tpu-compiler  only makes that'
	@echo 'make lint         lint and formatting only;  make format  puts them right'
	@echo 'make install      only make $(VENV);  PYTHON=...  chooses the Python'
	@echo 'make docs         write docs/settings.md and docs/plans/ from the code'
	@echo 'make wheel        build the package into dist/'
	@echo 'make constraints  resolve constraints.txt anew'
	@echo 'make clean        remove all .venv folders and build folders; runs/ stays'

install: $(STAMP)

# What pip prints goes to a log; when it fails, the end of it is shown.
$(STAMP): setup.py pyproject.toml constraints.txt
	@set -e; \
	if ! $(VENV_PYTHON) -m pip --version >/dev/null 2>&1; then \
	  chosen=''; \
	  for candidate in $(if $(PYTHON),"$(PYTHON)",$(PYTHON_CANDIDATES)); do \
	    if "$$candidate" -c '$(PYTHON_CHECK)' >/dev/null 2>&1; then \
	      chosen="$$candidate"; break; \
	    fi; \
	  done; \
	  if [ -z "$$chosen" ]; then \
	    echo 'A Python from 3.10 to 3.13 with the venv and ensurepip modules is needed.' >&2; \
	    echo 'Tried: $(or $(PYTHON),$(PYTHON_CANDIDATES)).' >&2; \
	    echo 'Install one (on Debian and Ubuntu: python3 and python3-venv), or name it:' >&2; \
	    echo '  make PYTHON=/path/to/python3.12 $(or $(MAKECMDGOALS),install)' >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$("$$chosen" -c 'import platform, sys; print("Python", platform.python_version(), "at", sys.executable)')."; \
	  "$$chosen" -m venv --clear $(VENV); \
	fi; \
	echo 'Installing the packages pinned in constraints.txt into $(VENV): about 3 GB, some'; \
	echo 'minutes, only this once. Watch it with: tail -f $(INSTALL_LOG)'; \
	if ! { $(PIP_INSTALL) --constraint constraints.txt pip setuptools wheel && \
	    $(PIP_INSTALL) --constraint constraints.txt \
	      --build-constraint constraints.txt --editable '.[dev]'; \
	    } >$(INSTALL_LOG) 2>&1; then \
	  grep -v '^WARNING: Location' $(INSTALL_LOG) | tail -n 30 >&2; \
	  echo 'The installation failed: pip said why above, and all in $(INSTALL_LOG).' >&2; \
	  exit 1; \
	fi; \
	touch $(STAMP); \
	echo 'Installed.'

quickstart: $(STAMP)
	@$(VENV_PYTHON) tools/quickstart.py $(if $(CORPUS),--corpus='$(CORPUS)') $(if $(CASED),--no-lower_case) $(if $(OUTPUT),--output='$(OUTPUT)')

test: $(STAMP)
	@$(VENV_PYTHON) -m ruff check --quiet .
	@$(VENV_PYTHON) -m ruff format --check --quiet .
	@$(VENV_PYTHON) -m pytest -n $(TEST_PROCESSES) --dist loadgroup

# What docs/reliability.md promises, tried at length.
test-faults: $(STAMP)
	@$(VENV_PYTHON) -m pytest -m faults -s

# transformers and PyTorch have an environment of their own: they need nothing of
# TensorFlow, and nothing here needs them.
HF_VENV := .venv-hf
HF_REQUIREMENTS := from importlib import metadata; \
  print(*[r.split(';')[0] for r in metadata.requires('tokendrop_tf') if 'hugging' in r])

test-hugging-face: $(STAMP)
	@set -e; \
	if [ ! -e $(HF_VENV)/installed.stamp ]; then \
	  echo 'Installing transformers and PyTorch into $(HF_VENV), only this once.'; \
	  $(VENV_PYTHON) -m venv --clear $(HF_VENV); \
	  $(HF_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	    $$($(VENV_PYTHON) -c "$(HF_REQUIREMENTS)"); \
	  touch $(HF_VENV)/installed.stamp; \
	fi; \
	TOKENDROP_HUGGING_FACE_PYTHON="$$PWD/$(HF_VENV)/bin/python" \
	  $(VENV_PYTHON) -m pytest -m hugging_face

# JAX and the TPU compiler, beside TensorFlow's packages for the same reason.
TPU_VENV := .venv-tpu
TPU_REQUIREMENTS := $(subst hugging,tpu,$(HF_REQUIREMENTS))
TPU_TOPOLOGIES ?= v5e:2x4 v4:2x2x2
TPU_ARMS ?= configured,none,stock,layerwise,windows,halving,pooled

install-tpu-compiler: $(STAMP)
	@set -e; \
	if [ ! -e $(TPU_VENV)/installed.stamp ]; then \
	  echo 'Installing JAX and libtpu into $(TPU_VENV), only this once.'; \
	  $(VENV_PYTHON) -m venv --clear $(TPU_VENV); \
	  $(TPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	    $$($(VENV_PYTHON) -c "$(TPU_REQUIREMENTS)"); \
	  touch $(TPU_VENV)/installed.stamp; \
	fi

# Every experiment that names a TPU, by the real TPU compiler, at its real size.
test-tpu-compile: install-tpu-compiler
	@set -e; \
	for file in $$(grep -l "distribution_strategy = 'tpu'" gin_configs/*.gin); do \
	  $(VENV_PYTHON) tools/compile_for_tpu.py --gin_file=$$file \
	    $(TPU_TOPOLOGIES:%=--topology=%) --arms=$(TPU_ARMS) \
	    --output_dir=runs/tpu/$$(basename $$file .gin) \
	    --output_json=runs/tpu/$$(basename $$file .gin).json; \
	done

# Apache Beam, which wants other versions of protobuf and pyarrow.
BEAM_VENV := .venv-beam

test-beam: $(STAMP)
	@set -e; \
	if [ ! -e $(BEAM_VENV)/installed.stamp ]; then \
	  echo 'Installing everything and Apache Beam into $(BEAM_VENV), only this once.'; \
	  $(VENV_PYTHON) -m venv --clear $(BEAM_VENV); \
	  $(BEAM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	    --editable '.[dev,beam]'; \
	  touch $(BEAM_VENV)/installed.stamp; \
	fi; \
	$(BEAM_VENV)/bin/python -m pytest -s tests/data/shards/test_beam_pipeline.py

lint: $(STAMP)
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m ruff format --check .

format: $(STAMP)
	@$(VENV_PYTHON) -m ruff check --fix .
	@$(VENV_PYTHON) -m ruff format .

docs: $(STAMP)
	@$(VENV_PYTHON) -m tokendrop_tf.config.settings_page docs/settings.md
	@$(VENV_PYTHON) -m tokendrop_tf.pages.plan_pictures docs/plans

wheel: $(STAMP)
	@rm -rf build
	@$(VENV_PYTHON) -m pip wheel -q --no-deps --wheel-dir dist .
	@ls dist/*.whl

constraints: $(STAMP)
	@$(PIP_INSTALL) -q uv
	@echo '# Every version that make installs, for Python 3.10 to 3.13.' > constraints.new
	@echo '# Written by: make constraints' >> constraints.new
	@$(VENV_PYTHON) -m uv pip compile --quiet --universal --python-version 3.10 \
	  --no-header --no-annotate --extra dev setup.py >> constraints.new
	@mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) $(HF_VENV) $(TPU_VENV) $(BEAM_VENV) build dist *.egg-info .pytest_cache .ruff_cache
