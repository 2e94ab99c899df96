#!/usr/bin/env bash
# Compiles and runs models that it makes itself, and prints a row for each:
#   benches/scaling.sh [KIND...]     chains: layers matrices pointwise wide residual; and large, a model of 5 GiB
# NYXC         the binary                             [target/debug/nyxc]
# NYXC_SIZES   nodes of the chains, by comma          [100,1000,10000,50000]
# NYXC_TARGET  the target                             [auto]
# NYXC_BUDGET  a budget for the chains: a share of what f32 takes, such as 0.5   [none: the target's]
# TMPDIR       where the models go; large has 5 GiB, of which 160 MiB are no holes
set -euo pipefail
cd "$(dirname "$0")/.."
exec python3 benches/scaling.py "$@"
