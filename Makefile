# Two commands do all the set-up: `make demo` and `make test`. The environment is made once, in .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test package docs embedded lint bench bench-gpu fuzz faults mutants versions audit clean

demo: $(READY)
	$(BIN)/rsiccllm demo

# Two processes share the files of tests; one thread each, since more than one would wait for the other's.
test: $(READY) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The wheel and the sdist, built, installed into a fresh environment outside the tree, and tried.
package: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m package tests/test_package.py

# The documents as a site, in build/site.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The model in the package, trained again from nothing; stopped, it goes on where it was.
embedded: $(READY)
	$(BIN)/python -m rsiccllm.demo.embedded

lint: $(READY)
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python bench/scenes.py
	$(BIN)/python bench/scores.py
	$(BIN)/python bench/texture.py
	$(BIN)/python bench/sft.py
	$(BIN)/python bench/near_duplicates.py
	$(BIN)/python bench/teacher.py
	$(BIN)/python bench/stream.py

# Says so and stops where there is no CUDA GPU.
bench-gpu: $(READY)
	$(BIN)/python bench/gpu.py

# A million inputs over every parser; what fails is kept in tests/fuzz/found. Takes five to twenty minutes.
fuzz: $(READY)
	$(BIN)/python tests/fuzz/run.py

# Every stage killed, starved and damaged at random moments. As root it mounts a small disk; half an hour.
faults: $(READY)
	$(BIN)/python bench/faults/run.py

# Small changes to losses, packing, facts, gates and scores: does a test notice each? A quarter of an hour.
mutants: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python bench/mutants.py

# The models' tests on the oldest transformers that pyproject.toml allows and on the newest there is. Some ten minutes.
versions: $(READY)
	set -e; for release in transformers==5.19.0 transformers; do \
		rm -rf build/versions; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/versions $$release; \
		ls -d build/versions/transformers-*; \
		PYTHONPATH=build/versions OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile \
			tests/model tests/caption tests/serve tests/training; \
	done

# Known holes of what constraints.txt pins. Says so where the advisories cannot be reached.
audit: $(READY)
	$(BIN)/python bench/audit.py

# The constraints pin torch: without the pin, a newer one and several GB of CUDA would come.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs dist build
