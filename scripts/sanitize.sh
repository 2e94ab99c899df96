#!/usr/bin/env bash
# Runs the tests that reach unsafe code (Vulkan, mapped files) under AddressSanitizer with leak detection, on lavapipe:
#   scripts/sanitize.sh [FILTER]...       of the library's own tests, those whose name has a FILTER; by default those of all unsafe parts
# Builds everything anew, in $NYXC_SANITIZE_TARGET (default target/sanitize): some seventeen CPU minutes the first time. The compiler is the usual one;
# RUSTC_BOOTSTRAP=1 lets it take the flag. Nothing is suppressed: what the driver keeps for itself is reachable, since the driver stays loaded.
# Tests that limit a child's address space (tests/faults.rs) cannot run so: the sanitizer reserves terabytes.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- runtime:: program:: import:: session:: ir::packed ir::tensor
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR="${NYXC_SANITIZE_TARGET:-target/sanitize}"
export ASAN_OPTIONS="detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1:${ASAN_OPTIONS:-}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --locked --target "$host" --lib -- "$@" 2>&1 | tee "$log"
# One test weighs the process, in which the sanitizer keeps what is freed. In another a dispatch has no workgroups at first, of which lavapipe 22.3 keeps
# some memory for good; the same binary leaves nothing on lavapipe 26.1.
tests=(--test concurrency --test nonfinite --test ranges --test kernels)
cargo test --locked --no-fail-fast --target "$host" "${tests[@]}" -- --skip leave_memory_as_it_was --skip has_no_rows_where_it_had_none 2>&1 | tee -a "$log"
if grep -q "SKIPPED: no Vulkan device" "$log"; then
  echo "no Vulkan device was found, so the runtime was not tested" >&2
  exit 1
fi
echo "no reports"
