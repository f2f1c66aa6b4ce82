# Needs a Rust toolchain and make; the rest is installed where it is missing, if that can be done without asking.

CARGO ?= cargo
PREFIX ?= /usr/local
# What `make demo` passes on, such as ARGS=--keep
ARGS ?=

BUILD_TOOLS := cmake cc
# What jobs are run with, and what the README's quickstart, which is a test, asks with.
RUN_TOOLS := bwrap python3
TEST_TOOLS := curl
# The pool's peers, and who puts load on them.
BENCH_TOOLS := nginx haproxy wrk h2load

.PHONY: all
all: build

.PHONY: help
help:
	@echo 'make demo [ARGS=--keep]   a whole pool on this machine runs an example job'
	@echo 'make test                 every test'
	@echo 'make simulate [SEEDS=N]   many more histories of the simulated pool (100,000)'
	@echo 'make chaos [CHAOS_SECONDS=N] [CHAOS_SEED=N]  real processes, killed at random (120 s)'
	@echo 'make fuzz [TARGET=route] [SECONDS=60]  random input for one parser, or for each of them'
	@echo 'make figures              measures what the README says of speed'
	@echo 'make bench [ARGS=--only=1GiB]  the pool beside nginx and HAProxy (12 minutes)'
	@echo 'make bench-jobs           real jobs on real workers: how soon they start, how many a second'
	@echo 'make bench-scale          how the parts grow, up to 10,000 workers and 1,000,000 jobs'
	@echo 'make bench-guard          instructions for a request, held to what they were'
	@echo 'make lint                 formatting, lints, documentation, licences'
	@echo 'make build                the program, optimised: target/release/trusted-pool'
	@echo 'make install [PREFIX=DIR] the same, into DIR/bin (/usr/local/bin)'
	@echo 'make setup                only sees that the tools for all this are there'

.PHONY: setup
setup:
	@scripts/require-tools $(BUILD_TOOLS) $(RUN_TOOLS) $(TEST_TOOLS)

.PHONY: build
build:
	@scripts/require-tools $(BUILD_TOOLS)
	$(CARGO) build --release --locked

.PHONY: demo
demo: setup
	$(CARGO) run --release --locked -- demo $(ARGS)

.PHONY: test
test: setup
	$(CARGO) test --locked --no-fail-fast

# Histories of the whole pool under faults; the tests run 10,000.
SEEDS ?= 100000

.PHONY: simulate
simulate:
	@scripts/require-tools $(BUILD_TOOLS)
	SIMULATION_SEEDS=$(SEEDS) $(CARGO) test --locked --lib -- simulation

# How long the processes are killed, and what decides when; without a seed, it is drawn and printed.
CHAOS_SECONDS ?= 120
CHAOS_SEED ?=

.PHONY: chaos
chaos:
	@scripts/require-tools $(BUILD_TOOLS)
	CHAOS_SECONDS=$(CHAOS_SECONDS) CHAOS_SEED=$(CHAOS_SEED) \
	    $(CARGO) test --locked --test pool -- chaos:: --ignored --nocapture

.PHONY: figures
figures:
	@scripts/require-tools $(BUILD_TOOLS)
	$(CARGO) test --locked --test pool -- figures:: --ignored --nocapture --test-threads 1

# A target of fuzz/targets, or each of them in turn, and how long each is run; 0 only replays what is there.
TARGET ?= $(basename $(notdir $(sort $(wildcard fuzz/targets/*.rs))))
SECONDS ?= 60

.PHONY: fuzz
fuzz:
	@scripts/require-tools $(BUILD_TOOLS) c++
	@command -v cargo-fuzz >/dev/null || \
	    { echo 'cargo-fuzz is missing. Install it with: cargo install --locked cargo-fuzz' >&2; exit 1; }
	@CARGO='$(CARGO)' fuzz/run $(SECONDS) $(TARGET)

.PHONY: bench
bench:
	@scripts/require-tools $(BUILD_TOOLS) $(BENCH_TOOLS)
	$(CARGO) bench --locked --bench peers -- $(ARGS)

.PHONY: bench-jobs
bench-jobs:
	@scripts/require-tools $(BUILD_TOOLS) $(RUN_TOOLS) nginx
	$(CARGO) bench --locked --bench peers -- --jobs

.PHONY: bench-scale
bench-scale:
	@scripts/require-tools $(BUILD_TOOLS)
	$(CARGO) bench --locked --bench scale -- $(ARGS)

# After a change that is meant to cost more: make bench-guard ARGS=--write
.PHONY: bench-guard
bench-guard:
	@scripts/require-tools $(BUILD_TOOLS) nginx valgrind
	$(CARGO) bench --locked --bench peers -- --guard $(CURDIR)/benches/peers/baseline.json $(ARGS)

.PHONY: lint
lint:
	@scripts/require-tools $(BUILD_TOOLS)
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --locked check bans licenses sources; \
	else echo 'cargo-deny is not installed: deny.toml is not checked'; fi

.PHONY: install
install: build
	install -D -m 755 "$${CARGO_TARGET_DIR:-target}/release/trusted-pool" "$(DESTDIR)$(PREFIX)/bin/trusted-pool"
