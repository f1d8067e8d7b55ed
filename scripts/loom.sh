#!/usr/bin/env bash
# Builds the crate with loom's locks and atomics in place of std's (src/sync.rs) and runs the models of what threads share: every order
# in which they can meet, with three interruptions at most; where HOLDFAST_FULL is set, with as many as there can be. Only the crate
# itself is built again; what it depends on is shared with the ordinary build. The models end after 15 minutes, in full after an hour: one
# whose interleavings have no end says so instead of running on.
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
limit=900
if [ -n "${HOLDFAST_FULL:-}" ]; then limit=3600; fi
limited=()
if command -v timeout >/dev/null 2>&1; then limited=(timeout --kill-after=30 "$limit"); fi
${limited[@]+"${limited[@]}"} "$models" interleavings:: --show-output
status=$?
if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then echo "!! the models did not end within $limit s"; fi
exit "$status"
