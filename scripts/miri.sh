#!/usr/bin/env bash
# Runs what miri can run: packing, tensors, programs read and written, all without Vulkan, shaderc or mapped files, which it does not know.
#   scripts/miri.sh [FILTER]...
# Needs `rustup toolchain install nightly --component miri,rust-src`. Builds in $NYXC_MIRI_TARGET (default target/miri).
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- ir::packed ir::tensor program::
export CARGO_TARGET_DIR="${NYXC_MIRI_TARGET:-target/miri}" PROPTEST_CASES="${PROPTEST_CASES:-2}"
# Files and clocks are the host's. rayon's queues make pointers of integers, of which stacked borrows would have no origin.
export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-tree-borrows ${MIRIFLAGS:-}"
cargo +nightly miri test --locked --no-default-features --lib -- "$@" --skip mapped
echo "no reports"
