#!/usr/bin/env bash
# Fails where a snapshot exists that no test asserts: each must be named by a test as `"case"`.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=0
while read -r snap; do
  case=$(basename "$snap" .snap)
  if ! grep -rqE "\"$case\"" passes src tests --include='*.rs'; then
    echo "orphaned snapshot: $snap" >&2
    bad=1
  fi
done < <(find snapshots -name '*.snap')
[ -z "$(find snapshots -name '*.snap.new' -print -quit)" ] || { echo "unreviewed snapshots: *.snap.new" >&2; bad=1; }
exit $bad
