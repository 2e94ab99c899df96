# make demo: set up, build, compile a real model under a budget and run it.
# make test: set up, build, check formatting and lints, run all tests.
# make wheel: builds and checks the wheels of the Python bindings.
# make soak: the long tests; results are appended to benches/soak/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# shaderc takes twelve minutes from source; a prebuilt libshaderc_combined.a saves them where one lies beside the checkout.
ifneq ($(wildcard ../shared/prebuilt/libshaderc_combined.a),)
export SHADERC_LIB_DIR ?= $(abspath ../shared/prebuilt)
endif
target := $(or $(CARGO_TARGET_DIR),target)
nyxc := $(target)/debug/nyxc

.PHONY: demo test wheel soak setup build lint bless clean

setup:
	@scripts/setup.sh

build: setup
	cargo build --locked --bins

demo: build
	@scripts/demo.sh $(nyxc)

# Without a device many tests would pass by being skipped.
test: export NYXC_REQUIRE_DEVICE = 1
test: setup lint
	cargo test --locked
	cargo run --locked --quiet --example quickstart 2> /dev/null
	cargo run --locked --quiet --example embed > /dev/null
	cargo run --locked --quiet --no-default-features --example embed > /dev/null
	cargo run --locked --quiet --example own_operator > /dev/null
	@scripts/unreferenced_snapshots.sh
	scripts/test_python.sh
	scripts/test_c.sh

wheel: setup
	scripts/wheel.sh

soak: setup
	@scripts/soak.sh

lint: setup
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked -p nyxc-python -p nyxc-python-runtime -p nyxc-c --all-targets -- -D warnings

# Accept changed snapshots, after reading them.
bless:
	INSTA_UPDATE=always cargo test --locked --lib

clean:
	cargo clean
