# `make run` shows it, `make test` tests it; both install what they need on a fresh Debian.

.PHONY: run test check setup setup-test docs bench cost

run: setup
	cargo run --release -- demo

test: setup setup-test
	cargo test
	cargo run -- test scripts --coverage-min 90
	SELVEDGE_LOWERING=off cargo test --lib script:: -- --skip random_scripts
	SELVEDGE_LOWERING=off cargo test --test cases --test usecases
	SELVEDGE_LOWERING=verify cargo run -- test scripts

check: setup
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo test --test tidy --test docs

docs: setup
	cargo run -- docs docs/reference

# Pingora's zlib-ng needs cmake and a C compiler to build.
setup:
	@command -v cmake >/dev/null && command -v cc >/dev/null || { \
		$(SUDO) apt-get update -q && $(SUDO) apt-get install -qy cmake gcc libc6-dev make; }

setup-test:
	@tests/peers/setup

# Instructions of a hook's run against what they may be; needs valgrind and a release build.
cost: setup
	cargo bench --bench filters -- check

bench: setup
	benches/run

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
