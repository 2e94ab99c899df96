#!/usr/bin/env bash
# The main job on a real model: a Fashion-MNIST classifier under half the memory that it needs in f32.
set -euo pipefail
nyxc=$(realpath "${1:?usage: demo.sh NYXC}")
cd "$(dirname "$0")/../models"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
run() { echo "\$ nyxc $*"; "$nyxc" "$@"; echo; }
run devices
run compile fmnist-mlp.onnx --dim batch=8 --budget 400K -o "$out/mlp.nyx"
run run "$out/mlp.nyx" --inputs fmnist-mlp.inputs.npz --outputs "$out/out.npz" --device vulkan
run compare fmnist-mlp.onnx "$out/mlp.nyx" --inputs fmnist-mlp.inputs.npz --bound 0.1
run compile fmnist-mlp.onnx --dim batch=8 --policy uniform:w4a16 -o "$out/w4.nyx"
echo "\$ nyxc diff mlp.nyx w4.nyx"
"$nyxc" diff "$out/mlp.nyx" "$out/w4.nyx" || [ $? = 1 ]
