# As in scripts/cache.sh.
cache := $(or $(DBSTREAMD_CACHE),$(HOME)/.cache/dbstreamd)
# Everything builds with one profile into one folder outside the checkout: RocksDB compiles once (minutes),
# and what is tested is what is shipped. Override with CARGO_TARGET_DIR=...
export CARGO_TARGET_DIR ?= $(cache)/target
# The Python that scripts/setup.sh prepares, for the tests' foreign client.
export DBSTREAMD_PYTHON ?= $(cache)/python/bin/python
# The Python that `make bench-setup` prepares, for the benchmarks' optional references.
export DBSTREAMD_BENCH_PYTHON ?= $(cache)/bench-python/bin/python

# Where `make bench` leaves its report and plots.
BENCH_RESULTS ?= lab/results
# Which benchmark: all, or one of those that `dbstreamd-lab --help` lists.
BENCH ?= all
# For example: make demo ARGS="--seconds 60 --rate 500"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-matrix lint bench bench-setup profile torture

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing (Debian packages, a Python environment); others do this by themselves
	@scripts/setup.sh test

build: ## Build the dbstreamd program
	@scripts/setup.sh
	cargo build --release -p dbstreamd
	@echo "built $(CARGO_TARGET_DIR)/release/dbstreamd"

demo: ## See it work: a throwaway PostgreSQL, live traffic, the changes (options: ARGS="--seconds 60")
	@scripts/setup.sh
	cargo build --release -p dbstreamd
	@"$(CARGO_TARGET_DIR)/release/dbstreamd" demo $(ARGS)

test: ## Run every test against a real PostgreSQL
	@scripts/setup.sh test
	@scripts/test.sh $(ARGS)

# For example: make test-matrix MAJORS=18 TESTS=fidelity::membership
MAJORS ?= 14 15 16 17 18
TESTS ?=
test-matrix: ## Run what depends on the server's version on PostgreSQL 14 to 18 (MAJORS="14 18" TESTS=fidelity)
	@scripts/setup.sh matrix $(MAJORS)
	@scripts/matrix.sh "$(MAJORS)" $(TESTS)

lint: ## Check formatting and lints, as CI does
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings

# For example: make bench BENCH=drain ARGS="--rows 100000 --transactions 10000 --runs 1 --workloads t2"
bench: ## Measure against pg_recvlogical and others, side by side, and write the report (BENCH=drain ARGS="--runs 1 ..")
	@scripts/setup.sh
	cargo build --release -p dbstreamd -p dbstreamd-lab
	@"$(CARGO_TARGET_DIR)/release/dbstreamd-lab" $(BENCH) --binary "$(CARGO_TARGET_DIR)/release/dbstreamd" --results "$(BENCH_RESULTS)" $(ARGS)

bench-setup: ## Install what `make bench` and `make profile` skip when absent: psycopg2, Debezium with Java 17, NATS, perf
	@scripts/setup.sh bench

# For example: make profile ARGS="--rows 1000000"
profile: ## Show where the daemon's CPU time goes while it drains: a flame graph, by perf (ARGS="--rows 1000000")
	@scripts/setup.sh
	cargo build --release -p dbstreamd -p dbstreamd-lab
	@"$(CARGO_TARGET_DIR)/release/dbstreamd-lab" profile --binary "$(CARGO_TARGET_DIR)/release/dbstreamd" --results "$(BENCH_RESULTS)" $(ARGS)

# Cycles of faults and cases of schema changes of `make torture`, and their seed: from the clock unless given, and printed.
CYCLES ?= 20
CASES ?= 500
SEED ?= $(shell date +%s)
torture: ## Break daemon, server, network and disk under traffic; change schemas; compare (CYCLES=20 CASES=500 SEED=..)
	@scripts/setup.sh
	cargo build --release -p dbstreamd
	cargo build --release -p dbstreamd-torture -p dbstreamd-torture-shim
ifneq ($(CYCLES),0)
	@"$(CARGO_TARGET_DIR)/release/dbstreamd-torture" --binary "$(CARGO_TARGET_DIR)/release/dbstreamd" \
		--shim "$(CARGO_TARGET_DIR)/release/libdbstreamd_torture_shim.so" --cycles $(CYCLES) --seed $(SEED) $(ARGS)
endif
ifneq ($(if $(filter --list,$(ARGS)),0,$(CASES)),0)
	@"$(CARGO_TARGET_DIR)/release/dbstreamd-torture" schemas --binary "$(CARGO_TARGET_DIR)/release/dbstreamd" \
		--cases $(CASES) --seed $(SEED)
endif
