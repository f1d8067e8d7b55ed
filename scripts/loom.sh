#!/usr/bin/env bash
# Builds the crate with loom's locks and atomics in place of std's (src/sync.rs) and runs the models of what threads share: every order
# in which they can meet, with three interruptions at most; where HOLDFAST_FULL is set, with as many as there can be. Only the crate
# itself is built again; what it depends on is shared with the ordinary build.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

models=$(cargo rustc -q -p redis-holdfast --all-features --lib --profile test --locked --message-format=json -- --cfg loom |
  python3 -c '
import json, sys
for line in sys.stdin:
    built = json.loads(line).get("executable")
    if built:
        print(built)' | tail -n 1)
if [ -z "$models" ]; then
  echo "!! the models could not be built"
  exit 1
fi
"$models" interleavings:: --show-output
