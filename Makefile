# Needs nothing but make and a Python >= 3.12; everything else goes into virtual environments beside this file.
# Extra arguments: make test ARGS="-k layers", make demo ARGS="--quick".

VENV := .venv
OLDEST := .venv-oldest
MODELS := .venv-models
PEERS := .venv-peers
COMPILERS := .cache/compilers
WORKERS ?= 2
ARGS ?=

NETWORKS := tests/models/requirements.txt
FRAMEWORKS := bench/peers/requirements.txt
LLAMA := bench/peers/requirements-llama.txt
OLDEST_JAX := jax==0.11.2 jaxlib==0.11.2
# A version of JAX changes what programs are traced to, the interface and Pallas. Numerics and
# the kernel for CPU are array operations that both versions have; of these run the tests of the
# formulas, of packing and of rounding, which look at bits, and what rewriting does with the rest.
OLDEST_NUMERICS = $(addprefix tests/numerics/test_,formulas.py packing.py rounding.py qtensor.py)
OLDEST_TESTS = $(wildcard tests/rewriting tests/graph tests/ops tests/passes tests/fuzz $(OLDEST_NUMERICS) $(filter-out %/test_cpu.py,$(wildcard tests/kernels/test_*.py)) tests/test_*.py)

# An interpreter counts only if it starts: pyenv's shims exist for versions that are switched off,
# and Debian's python3 comes without ensurepip, so without venv.
STARTS := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))
NEWEST_FIRST = python3.13 python3.12 python3 $(shell ls -dr $(HOME)/.pyenv/versions/3.1[2-9]*/bin/python 2>/dev/null)
PEERS_FIRST = python3.11 $(sort $(wildcard $(HOME)/.pyenv/versions/3.11*/bin/python)) $(NEWEST_FIRST)
OLDEST_FIRST = python3.12 $(sort $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python)) $(NEWEST_FIRST)
PIP := -m pip --quiet --disable-pip-version-check

# $(call new_venv,FOLDER,CANDIDATES)
define new_venv
@for python in $(2); do \
	if "$$python" -c "$(STARTS)" >/dev/null 2>&1; then found=$$python; break; fi; \
done; \
if [ -z "$$found" ]; then \
	echo "qpass needs Python 3.12 or newer with venv: apt-get install python3.12-venv, brew install python@3.13, or pyenv install 3.13" >&2; \
	exit 1; \
fi; \
echo "$(1): a new environment with $$("$$found" -V)"; \
"$$found" -m venv --clear $(1)
@touch $@
endef

# $(call install,FOLDER,REQUIREMENTS)
define install
@echo "$(1): installing $(2)"
@$(1)/bin/python $(PIP) install $(2)
@touch $@
endef

.NOTPARALLEL:
.PHONY: help aot demo bench-peers fuzz test test-oldest test-slow test-models test-checkpoints test-browser chromium docs lint format clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  %-14s %s\n' "$$name" "$$text"; done

demo: $(VENV)/demo.stamp ## Quantize a real language model and show what happened (minutes; report in reports/)
	$(VENV)/bin/qpass demo $(ARGS)

bench-peers: $(VENV)/test.stamp $(PEERS)/peers.stamp ## Time qpass beside ONNX Runtime, torchao and llama.cpp (ARGS="models --quick")
	$(VENV)/bin/qpass bench $(or $(ARGS),products --quick) --peers bench/peers/peers.json

# Tests run on the sources as they are: compile what changed since the installation. Where that
# fails a test says so; without a compiler the tests of compiled kernels are skipped.
test: $(VENV)/test.stamp ## Run the test suite on the newest jax
	-@$(VENV)/bin/python -m qpass_kernels.native.build
	$(VENV)/bin/python -m pytest -n $(WORKERS) $(ARGS)

test-oldest: $(OLDEST)/test.stamp ## Run the rewriting and kernel tests on jax 0.11.2
	-@$(OLDEST)/bin/python -m qpass_kernels.native.build
	$(OLDEST)/bin/python -m pytest -n $(WORKERS) $(OLDEST_TESTS) $(ARGS)

test-slow: $(VENV)/test.stamp ## Run the slow tests
	$(VENV)/bin/python -m pytest -m "slow and not (model or checkpoint or browser or aot or gpu or tpu)" $(ARGS)

test-models: $(MODELS)/test.stamp ## Quantize networks of other packages, with random weights (ARGS="--page docs/models.md" writes the page)
	$(MODELS)/bin/python -m pytest -n $(WORKERS) --dist loadgroup -m model tests/models $(ARGS)

test-checkpoints: $(VENV)/test.stamp ## Run the tests that download trained weights (100 MB each, kept in .cache/)
	$(VENV)/bin/python -m pytest -m "checkpoint and not (browser or aot or gpu or tpu)" $(ARGS)

fuzz: $(VENV)/test.stamp ## Check random programs, FUZZ_EXAMPLES=500 in each test (ARGS="--hypothesis-seed=7 -k gradients")
	FUZZ_PROFILE=many $(VENV)/bin/python -m pytest -n $(WORKERS) tests/fuzz $(ARGS)

# With a plugin in the environment itself every program would look for a GPU when it starts.
aot: $(COMPILERS)/compilers.stamp ## Compile the kernels for H200 and TPU v5e, v5p, v6e, v7x, none of them there (1.1 GB)
	PYTHONPATH=$(CURDIR)/$(COMPILERS)/cuda TPU_LIBRARY_PATH=$(CURDIR)/$(COMPILERS)/tpu/libtpu/libtpu.so \
	TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu \
	$(VENV)/bin/python -m pytest -n $(WORKERS) -m aot tests/aot --aot-results bench/results/aot.json $(ARGS)

test-browser: $(VENV)/test.stamp chromium ## Open the HTML pages in headless Chromium
	$(VENV)/bin/python -m pytest -m browser $(ARGS)

chromium:
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; \
	else echo "The browser tests need Chromium: sudo apt-get install chromium" >&2; exit 1; fi

docs: $(VENV)/test.stamp ## Put examples into their pages (ARGS="--numerics --performance --frameworks" for figures)
	$(VENV)/bin/python docs/build.py $(ARGS)

lint: $(VENV)/lint.stamp ## Check style, types and the direction of imports
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python
	$(VENV)/bin/lint-imports

format: $(VENV)/lint.stamp ## Format the code and repair what ruff can
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

clean: ## Remove environments, caches and build outputs
	rm -rf $(VENV) $(OLDEST) $(MODELS) $(PEERS) .cache .hypothesis .pytest_cache .ruff_cache .import_linter_cache build dist kernels/qpass_kernels/native/*.so

# A changed pyproject.toml means a new environment: what it no longer asks for must not linger.
$(VENV)/venv.stamp: pyproject.toml
	$(call new_venv,$(VENV),$(NEWEST_FIRST))

$(OLDEST)/venv.stamp: pyproject.toml
	$(call new_venv,$(OLDEST),$(OLDEST_FIRST))

$(MODELS)/venv.stamp: pyproject.toml $(NETWORKS)
	$(call new_venv,$(MODELS),$(NEWEST_FIRST))

$(VENV)/demo.stamp: $(VENV)/venv.stamp
	$(call install,$(VENV),-e ".[demo]")

$(VENV)/test.stamp: $(VENV)/venv.stamp
	$(call install,$(VENV),-e ".[test$(comma)peers]")

$(VENV)/lint.stamp: $(VENV)/venv.stamp
	$(call install,$(VENV),-e ".[test$(comma)lint]")

$(OLDEST)/test.stamp: $(OLDEST)/venv.stamp
	$(call install,$(OLDEST),-e ".[test]" $(OLDEST_JAX))

# The list holds all that the networks import, so nothing is resolved: their trainers and data
# loaders would need ten times as much.
$(MODELS)/test.stamp: $(MODELS)/venv.stamp
	$(call install,$(MODELS),-e ".[test]" --constraint $(NETWORKS))
	$(call install,$(MODELS),--no-deps --requirement $(NETWORKS))

# Folders beside the environment; jax names the versions of the compilers that go with it.
$(COMPILERS)/compilers.stamp: $(VENV)/test.stamp tests/aot/compilers.py
	@echo "$(COMPILERS): installing the compilers for GPU and TPU"
	@rm -rf $(COMPILERS) && mkdir -p $(COMPILERS)
	@for device in cuda tpu; do \
		$(VENV)/bin/python tests/aot/compilers.py $$device > $(COMPILERS)/$$device.txt && \
		$(VENV)/bin/python $(PIP) install --no-deps --target $(COMPILERS)/$$device --requirement $(COMPILERS)/$$device.txt \
		|| exit 1; \
	done
	@touch $@

# PyTorch is built for new Pythons last. The peers are plain scripts, which older ones run as well.
$(PEERS)/venv.stamp: STARTS := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
$(PEERS)/venv.stamp: $(FRAMEWORKS) $(LLAMA)
	$(call new_venv,$(PEERS),$(PEERS_FIRST))

# What has to be compiled may fail; the others then run without it, and the report says so.
$(PEERS)/peers.stamp: $(PEERS)/venv.stamp
	@echo "$(PEERS): building llama.cpp (minutes)"
	@$(PEERS)/bin/python $(PIP) install --requirement $(LLAMA) >$(PEERS)/llama.log 2>&1 \
	|| echo "llama.cpp is left out, as it could not be built; $(PEERS)/llama.log ends: $$(tail -n 3 $(PEERS)/llama.log)"
	$(call install,$(PEERS),--requirement $(FRAMEWORKS))

comma := ,
