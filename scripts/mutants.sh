#!/usr/bin/env bash
# Builds each mutant of the link and runs the test of cancellation on it, for less than 10^5 operations in all: a test that a mutant passes proves
# nothing. Only the crate itself is built again; what it depends on is shared with the ordinary build.
#
#   scripts/mutants.sh [MUTANT...]     all of them by default
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

mutants=("$@")
if [ ${#mutants[@]} -eq 0 ]; then mutants=(half_written no_tombstone push_is_reply); fi
said=$(mktemp)
trap 'rm -f "$said"' EXIT

# The test binary of the crate with a mutant in it.
binary() {
  cargo rustc -q -p redis-holdfast --all-features --lib --profile test --locked --message-format=json -- \
    --cfg holdfast_mutant --cfg "holdfast_mutant=\"$1\"" |
    python3 -c '
import json, sys
for line in sys.stdin:
    built = json.loads(line).get("executable")
    if built:
        print(built)' | tail -n 1
}

escaped=0
for mutant in "${mutants[@]}"; do
  test=$(binary "$mutant")
  if [ -z "$test" ]; then
    echo "!! $mutant could not be built"
    escaped=$((escaped + 1))
    continue
  fi
  # Three storms of a third each, and 64 callers' last ones; so few go on no longer for want of a cut (`is_over`).
  # Caught is a reply in the wrong hands, or a request cut short; nothing else counts.
  HOLDFAST_OPERATIONS=89000 timeout --kill-after=5 300 "$test" cancellation:: --nocapture >"$said" 2>&1
  how=$(grep -oE "was somebody else's|a request was cut short" "$said" | sort | uniq -c | tr -s ' \n' ' ')
  if [ -z "$how" ]; then
    echo "!! $mutant was not caught"
    tail -n 5 "$said"
    escaped=$((escaped + 1))
  else
    echo "FIGURE mutant $mutant: caught within 10^5 operations:$how"
  fi
done
[ "$escaped" -eq 0 ]
