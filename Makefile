# Two commands matter: `make demo` and `make test`. CI runs the same targets (.ci/run).
# They need make and Python 3.11; everything else goes into .venv.

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
BIN := .venv/bin
INSTALL := python -m pip install --quiet
EVERYTHING := --editable '.[demo]' --group dev

.DEFAULT_GOAL := help
.PHONY: help demo test slow laws check docs zensical browser package bench gen lock clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 15

demo: .venv/.data  ## train a two-task U-Net on real nuclei: a table and a picture
	$(BIN)/python examples/multitask_nuclei.py

# Two workers, one thread each: more threads than cores only wait for each other.
test: .venv/.ok  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

slow: .venv/.ok  ## run the tests that take minutes each, as those that compile with inductor
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m slow

# Half an hour on two cores. With LAWS=--every-case, which takes hours, all cases are compiled.
laws: .venv/.ok  ## record what the laws find, for the documentation
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "slow or not slow" $(LAWS) tests/test_laws.py \
		--laws docs/data/laws.json

check: .venv/.ok  ## lint, format, types, generated modules, documentation, packages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python tools/gen_nn.py --check
	$(BIN)/python tools/gen_pages.py --check
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow tests/test_laws.py -k "G7 and (mse_loss or dice_bce_loss)"
	$(MAKE) zensical
	$(MAKE) docs
	$(MAKE) browser
	$(MAKE) package

# Never with -q, which hides the warnings that --strict counts. As a module, so that the pages can
# import tools/.
docs: .venv/.ok  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The successor of mkdocs-material, from the same mkdocs.yml and into the same site/.
zensical: .venv/.ok  ## build the documentation with Zensical
	$(BIN)/python -m zensical build --strict --clean

# What `make docs` built, opened without network: formulas, search, colours, widths, links.
browser: .venv/.ok  ## test the built documentation in Chromium
	OMP_NUM_THREADS=1 $(BIN)/pytest -m built tests/test_built_site.py

# Without isolation: hatchling comes from constraints.txt too. The wheel is tried outside this
# directory, in an environment that has the packages of .venv but not this checkout.
package: .venv/.ok  ## build wheel and sdist into dist/, and try the wheel elsewhere
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(PYTHON) tools/try_wheel.py dist .venv

bench: .bench/.ok  ## measure what a call costs, beside the peers
	$(BIN)/python benchmarks/overhead.py
	.bench/bin/python benchmarks/multitask.py --json docs/data/benchmarks_multitask.json
	.bench/bin/python benchmarks/segmentation.py --json docs/data/benchmarks_segmentation.json
	.bench/bin/python benchmarks/peers_doctor.py --json docs/data/peers_doctor.json

gen: .venv/.ok  ## write the modules, missing pages and the navigation from the functions
	$(BIN)/python tools/gen_nn.py
	$(BIN)/python tools/gen_pages.py

# torch is moved on purpose (make lock TORCH=...), the rest to the newest versions that fit.
TORCH ?= 2.13.0
lock:  ## write constraints.txt from a fresh environment
	$(PYTHON) -m venv --clear .lock
	.lock/bin/$(INSTALL) --upgrade pip
	.lock/bin/$(INSTALL) torch==$(TORCH) $(EVERYTHING)
	.lock/bin/$(INSTALL) --no-deps stardist
	.lock/bin/python -m pip freeze --all --exclude pip --exclude-editable > .lock/freeze.txt
	{ grep '^#' constraints.txt; sed 's/+cpu//' .lock/freeze.txt; } > .lock/constraints.txt
	mv .lock/constraints.txt constraints.txt
	rm -rf .lock

clean:  ## remove everything that was built
	rm -rf .venv .bench .lock .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis site dist
	find . -name __pycache__ -prune -exec rm -rf {} +

# pip first: the one that comes with Python 3.11 does not know --group.
.venv/.ok: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/$(INSTALL) --upgrade pip
	$(BIN)/$(INSTALL) --constraint constraints.txt $(EVERYTHING)
	touch $@

# The peers, beside what .venv has: the same torch, and nothing of theirs where the tests run.
PACKAGES := import sysconfig; print(sysconfig.get_path("purelib"))
.bench/.ok: .venv/.ok
	$(PYTHON) -m venv .bench
	$(BIN)/python -c '$(PACKAGES)' > "$$(.bench/bin/python -c '$(PACKAGES)')/venv.pth"
	echo "$(CURDIR)" >> "$$(.bench/bin/python -c '$(PACKAGES)')/venv.pth"
	.bench/bin/$(INSTALL) --upgrade pip
	.bench/bin/$(INSTALL) --constraint constraints.txt --group bench
	touch $@

# Only for the image that it ships; its dependencies stay out.
.venv/.data: .venv/.ok
	$(BIN)/$(INSTALL) --constraint constraints.txt --no-deps stardist
	touch $@
