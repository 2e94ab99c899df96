#!/usr/bin/env bash
# Builds the Python bindings and runs their tests in a fresh virtual environment. Needs a network for NumPy and pytest, or a pip that has them.
#   scripts/test_python.sh [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
place="$(realpath -m "$target")/python"
cargo build --locked --quiet -p nyxc-python
rm -rf "$place"
python3 -m venv "$place/venv"
"$place/venv/bin/pip" --quiet --disable-pip-version-check install 'numpy>=1.21' ml_dtypes onnx pytest
mkdir -p "$place/package"
cp -r bindings/python/python/nyxc "$place/package/"
cp "$target/debug/lib_nyxc.so" "$place/package/nyxc/_nyxc.abi3.so"
PYTHONPATH="$place/package" PYTHONDONTWRITEBYTECODE=1 "$place/venv/bin/python" -m pytest -q -p no:cacheprovider bindings/python/tests "$@"
