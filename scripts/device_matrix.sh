#!/usr/bin/env bash
# Runs the device suite (every kernel, every format, the runtime, the command line) on the devices that can be made from the one here:
#   scripts/device_matrix.sh [widths|masks|swiftshader|validation]...        all four without arguments
# widths: lavapipe with subgroups of 4, 8 and 16. masks: as an RX 580, an Iris Xe and the least that Vulkan allows (NYXC_MASK).
# swiftshader: on a second driver, which scripts/new_swiftshader.sh unpacks into $NYXC_SWIFTSHADER (default ../swiftshader).
# validation: with synchronization and with GPU-assisted validation (NYXC_VALIDATION), both with the newer layers and lavapipe that
# scripts/new_lavapipe.sh unpacks into $NYXC_LAVAPIPE (default ../lavapipe), and the former with the system's too. Core validation watches in all.
# One line for each run; the first failure shows its log. Exit code 1 if any failed, or skipped for want of a device.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- widths masks swiftshader validation
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
suite=(--test kernels --test nonfinite --test formats --test masks --test ranges --test validation --test small_models --test small_onnx --test op_cases
  --test concurrency)
# Tests that do not ask for it themselves are watched too.
export NYXC_VALIDATION=${NYXC_VALIDATION:-core}
cargo test --locked --no-run --lib "${suite[@]}" >"$out/build" 2>&1 || { cat "$out/build" >&2; exit 1; }
swiftshader=$(realpath -m "${NYXC_SWIFTSHADER:-../swiftshader}")
lavapipe=$(realpath -m "${NYXC_LAVAPIPE:-../lavapipe}")
runner=CARGO_TARGET_$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')_RUNNER
nyxc=${CARGO_TARGET_DIR:-target}/debug/nyxc
failed=0

# suite NAME [COMMAND...]: the suite in this environment, its commands run by COMMAND.
suite() {
  local name=$1 log=$out/log start=$SECONDS
  shift
  local device tests
  device=$("$@" sh -c '$NYXC_TEST_RUNNER "$0" devices' "$nyxc" 2>&1 | head -n 1 | sed 's/^[0-9]* *//; s/ (.*//') || true
  if "$@" cargo test --locked --lib -- runtime:: >"$log" 2>&1 &&
    "$@" cargo test --locked "${suite[@]}" >>"$log" 2>&1 &&
    ! grep -qE 'vulkan validation:|SKIPPED: no Vulkan device' "$log"; then
    tests=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$log" | paste -sd+ | bc)
    echo "ok     $name: $tests tests, $((SECONDS - start)) s, on $device"
  else
    echo "FAILED $name: $((SECONDS - start)) s, on $device"
    [ $failed = 1 ] || grep -vE '^(running|test .* ok$)' "$log" | tail -n 60
    failed=1
  fi
}

for part in "$@"; do
  case $part in
    widths)
      if "$nyxc" devices | grep -q llvmpipe; then
        for width in 128 256 512; do suite "lavapipe of $width bits, subgroups of $((width / 32))" env LP_NATIVE_VECTOR_WIDTH=$width; done
      else
        echo "SKIPPED widths: no lavapipe here"
      fi
      ;;
    masks)
      for mask in rx580 iris-xe vulkan-min no-dot no-16bit-storage shared=16K,invocations=128,align=256; do
        suite "NYXC_MASK=$mask" env NYXC_MASK=$mask
      done
      ;;
    swiftshader)
      [ -x "$swiftshader/run" ] || scripts/new_swiftshader.sh "$swiftshader" >/dev/null
      suite "SwiftShader" "$swiftshader/run"
      suite "SwiftShader, NYXC_MASK=vulkan-min" "$swiftshader/run" env NYXC_MASK=vulkan-min
      ;;
    validation)
      suite "synchronization validation" env NYXC_VALIDATION=core,sync
      [ -x "$lavapipe/run" ] || scripts/new_lavapipe.sh "$lavapipe" >/dev/null
      echo 'khronos_validation.syncval_shader_accesses_heuristic = true' >"$out/vk_layer_settings.txt"
      newer=(env "$runner=$lavapipe/run" "NYXC_TEST_RUNNER=$lavapipe/run" "VK_LAYER_SETTINGS_PATH=$out/vk_layer_settings.txt")
      suite "synchronization validation, newer layers" "${newer[@]}" NYXC_VALIDATION=core,sync
      # What LLVM makes of instrumented shaders is most of the time; unoptimized it is half as long, and the shaders are the same.
      suite "GPU-assisted validation, newer layers" "${newer[@]}" NYXC_VALIDATION=core,gpu GALLIVM_PERF=nopt
      ;;
    *) echo "device_matrix.sh [widths|masks|swiftshader|validation]..." >&2; exit 2 ;;
  esac
done
exit $failed
