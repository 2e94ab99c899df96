#!/usr/bin/env bash
# The long tests, each part on a line of its own. Every part appends date, machine, commit, result and seconds to benches/soak/results.txt and leaves
# its output beside it; the rest goes on where one fails.
#   scripts/soak.sh [PART]...      all parts without arguments
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p benches/soak
commit=$(git rev-parse --short HEAD)$([ -z "$(git status --porcelain --untracked-files=no)" ] || echo +)
machine="$(uname -m) $(nproc) cores $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
wanted=" $* "
failed=0

# part NAME COMMAND...
part() {
  local name=$1 start=$SECONDS result=ok
  shift
  [ "$wanted" = "  " ] || [[ $wanted == *" $name "* ]] || return 0
  echo "== $name: $*"
  "$@" 2>&1 | tee "benches/soak/$name.txt" || { result=FAILED; failed=1; }
  printf '%s  %s  %s  %s  %s  %d s\n' "$(date -u +%FT%TZ)" "$machine" "$commit" "$name" "$result" $((SECONDS - start)) | tee -a benches/soak/results.txt
}

part strangers cargo test --locked --test strangers -- --ignored --nocapture
# 50,000 random graphs; NYXC_SEEDS=FROM..TO names others. Without a cache of shaders, which would keep every kernel of every graph.
part properties env NYXC_CACHE= cargo test --locked --test properties -- --ignored --nocapture many
part device-widths scripts/device_matrix.sh widths
part device-masks scripts/device_matrix.sh masks
part device-swiftshader scripts/device_matrix.sh swiftshader
part device-validation scripts/device_matrix.sh validation
part programs cargo test --locked --test programs -- --ignored --nocapture
part sanitize scripts/sanitize.sh
part miri scripts/miri.sh
exit $failed
