# PYTHON is 3.11 or 3.12. TORCH is what pip is told to install first: elsewhere than PyPI, for a processor without CUDA,
# make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Waiting threads sleep: when another process uses a core, torch's spinning ones make everything ten times slower.
demo train-demo test test-all lint: export OMP_WAIT_POLICY ?= passive

.PHONY: demo train-demo test test-all lint bench bench-gpu memcheck docs clean

demo: $(VENV)/.installed-demo
	$(BIN)/python demo/run.py

# Everything that made demo/checkpoint, hours on a CPU: stop it at any time, it goes on where it stood.
train-demo: $(VENV)/.installed-train
	$(BIN)/python -m demo.train --work build/demo --out build/demo/checkpoint

# Most tests keep one core busy. A file's tests share what is slow to make.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.installed-test
	$(BIN)/pytest $(SIDE_BY_SIDE)

test-all: $(VENV)/.installed-test
	$(BIN)/pytest $(SIDE_BY_SIDE) -m ""

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pytest tests/test_package.py -k "import"

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.engine --device cpu --against transformers

# This machine's GPU, right and how fast; `make bench-gpu DEVICE=cpu QUICK=1` tries it without one.
bench-gpu: DEVICE ?= cuda
bench-gpu: OUT ?= build/device
bench-gpu: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.device check --device $(DEVICE) --out $(OUT) $(if $(QUICK),--quick)
	$(BIN)/python -m benchmarks.device measure --device $(DEVICE) --out $(OUT) $(if $(QUICK),--quick)

# Without torch's cache every tensor is an allocation of its own, past which the check sees.
memcheck: $(VENV)/.installed-test
	PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 1 --target-processes all \
		$(BIN)/python -m pytest -q -x -k "triton and bfloat16" tests/ops

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info .pytest_cache .ruff_cache .hypothesis demo/output kernels/seamless_kernels/*.so
	find engine kernels tests benchmarks tools demo -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH)
	touch $@

# Builds csrc/. What is installed on top of it, for one target or another, does not build it again.
$(VENV)/.installed: $(VENV)/.torch setup.py pyproject.toml engine/seamless_engine/search/schema.py $(wildcard csrc/* csrc/*/*)
	$(PIP) install -e .
	touch $@

$(VENV)/.installed-demo: extras := demo
$(VENV)/.installed-test: extras := test
$(VENV)/.installed-bench: extras := test,bench
$(VENV)/.installed-lint: extras := test,bench,lint
$(VENV)/.installed-docs: extras := docs
$(VENV)/.installed-train: extras := train,test,bench
$(foreach extra,demo test bench lint docs train,$(VENV)/.installed-$(extra)): $(VENV)/.installed
	$(PIP) install 'seamless-engine[$(extras)]'
	touch $@
