#!/bin/sh
# Matrix-vector products and thin matrices of every weight format on the device at hand: benches/gpu/matvec.sh NYXC [--variants all]
set -eu
nyxc=$1
shift
"$nyxc" devices
for format in f32 f16 w8a16 w4a16; do
    for sizes in 4096,4096 11008,4096 4096,11008 32000,4096; do
        "$nyxc" bench --kernel matmul --format $format --shape 1,$sizes "$@"
    done
    for rows in 2 4 8; do
        "$nyxc" bench --kernel matmul --format $format --shape $rows,4096,4096 "$@"
    done
done
