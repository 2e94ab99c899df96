#!/bin/bash
# RUSTC_WRAPPER of the fuzz crate: coverage instrumentation (LLVM's sancov, through flags that the stable compiler has) for our code and the
# parsers it leans on. Instrumenting everything else, tract's engine above all, would cost minutes and blur the figures.
rustc=$1
shift
args=" $* "
case $args in
*" --crate-name build_script_"*) ;;
*" --crate-name nyxc "* | *" --crate-name prost "* | *" --crate-name safetensors "* | *" --crate-name zip "* | *" --crate-type bin "*)
    exec "$rustc" "$@" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
esac
exec "$rustc" "$@"
