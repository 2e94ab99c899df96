#!/usr/bin/env bash
# Builds the C bindings, holds their header to the sources, and runs the example under AddressSanitizer: right, with a budget that is too small, and
# with arguments that are wrong.
set -euo pipefail
cd "$(dirname "$0")/.."

target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
cargo test --locked --quiet -p nyxc-c
cargo build --locked --quiet -p nyxc-c
place="$target/c"
mkdir -p "$place"
cc -std=c99 -Wall -Wextra -Werror -pedantic -fsanitize=address -g -Ibindings/c/include bindings/c/examples/run.c -L"$target/debug" -lnyxc -Wl,-rpath,"$target/debug" -o "$place/run"
c++ -std=c++11 -Wall -Wextra -Werror -fsyntax-only -x c++ bindings/c/include/nyxc.h
out="$("$place/run" models/fmnist-mlp.onnx 400K)"
grep -q '^logits: ' <<< "$out"
[ "$(sed -n 's/^planned peak \([0-9]*\) bytes$/\1/p' <<< "$out")" -le 409600 ]
if "$place/run" models/fmnist-mlp.onnx 1K 2> "$place/refused"; then echo "1 KiB is enough?" >&2; exit 1; fi
grep -q '"kind":"over_budget".*"min_feasible_bytes":[1-9]' "$place/refused"
if "$place/run" models/absent.onnx 1K 2> "$place/refused"; then exit 1; fi
grep -q '"kind":"io"' "$place/refused"
echo "C bindings: $out"
