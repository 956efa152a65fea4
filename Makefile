.PHONY: setup check test
setup:
	@command -v cmake >/dev/null || { apt-get update && apt-get install -y cmake; }
check: setup
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
test: setup
	cargo test
