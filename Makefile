# `make run` shows it, `make test` tests it; both install what they need on a fresh Debian.

.PHONY: run test check setup setup-test docs bench

run: setup
	cargo run --release -- demo

test: setup setup-test
	cargo test
	cargo run -- test scripts --coverage-min 90

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

bench: setup
	benches/run

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
