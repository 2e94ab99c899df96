#!/usr/bin/env bash
# Measures every row of the spine's table and prints it:
#   benches/spine.sh [SECTION...]        sections: f32 scores budget int4 determinism compile
# NYXC          the binary                          [target/debug/nyxc]
# NYXC_MODELS   a folder made by shared/scripts/fetch_models.sh and bench_models.py (minilm/, bench/, venv/)
# NYXC_SHARED   the folder with models/ and data/   [../shared]
# NYXC_RUN      a wrapper for `nyxc run`, such as the newer lavapipe's `run` script
# NYXC_ONLY     models to measure, by comma         [all]
set -euo pipefail
cd "$(dirname "$0")/.."
: "${NYXC_MODELS:?set NYXC_MODELS to the folder that shared/scripts/fetch_models.sh filled}"
python=$NYXC_MODELS/venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" benches/spine.py "$@"
