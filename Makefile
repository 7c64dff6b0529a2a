# make demo   installs what is needed into .venv and runs every step, end to end, on drawn videos
# make test   installs what is needed into .venv and runs the tests
# make test-fast  two thousand of the tests: without those that start processes, train, or take long
# make test-slurm  starts a Slurm of two nodes on this machine, runs the tests that need one, stops it; on Debian root
#             installs it (slurm-wlm, munge)
# make lint   style, formatting and types
# make drill  kills vicc prepare, then a training in two processes, at 50 random moments each and compares; half an hour
#
# PYTHON=python3.12 chooses the interpreter (3.11 or newer). PIP_ARGS goes to pip, for instance an index of your own.
PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
# Tests start hundreds of processes; without byte code each would compile all of torch again, six seconds.
unexport PYTHONDONTWRITEBYTECODE
# Three at a time on two cores, since some tests wait; each computes in one thread, or they would wait for each other's.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --dist worksteal --maxprocesses 24 \
	--numprocesses $$(( $$(getconf _NPROCESSORS_ONLN) * 3 / 2 ))

.PHONY: demo test test-fast test-slurm drill lint format clean

demo: .venv/installed
	$(BIN)/vicc demo $(ARGS)

test: .venv/installed
	$(PYTEST) $(ARGS)

test-fast: .venv/installed
	$(PYTEST) -m "not (slow or processes or trains or long or parity)" $(ARGS)

# Two at a time, since jobs mostly wait: for nodes, for the clock, to be requeued.
test-slurm: .venv/installed
	tests/slurm/one_machine.sh run $(BIN)/python -m pytest --numprocesses 2 tests/slurm $(ARGS)

drill: .venv/installed
	$(BIN)/python -m tests.drills.kill_prepare $(ARGS)
	$(BIN)/python -m tests.drills.kill_pretrain

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# constraints.txt pins what the numbers were measured with; the package itself admits newer versions. Python compiles a
# module when it is first imported, so pip need not compile all of them: a third of the time.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "vicc needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile $(PIP_ARGS) --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache vicc-demo
