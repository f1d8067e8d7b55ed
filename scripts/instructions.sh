#!/usr/bin/env bash
# Counts the instructions of each way in src/instructions.rs under callgrind, and compares them with scripts/instructions.*.txt.
# Each way runs twice, with few rounds and with many: the difference is the work, without start and end.
#
#   scripts/instructions.sh [PROFILE] [keep]
#
# PROFILE is cargo's: bench (the default), or test, which costs no build beside that of the unit tests and sees added work as well.
# keep: writes what was counted as the new baseline.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

profile=bench keep=
for word in "$@"; do
  case $word in
    bench | test) profile=$word ;;
    keep) keep=yes ;;
    *) echo "usage: scripts/instructions.sh [bench|test] [keep]" >&2; exit 2 ;;
  esac
done
kept=scripts/instructions.$profile.txt
few=200 many=1200
# It repeats within 1 % on one machine; another C library may cost a little more.
allowed=3
# What the stack may add to a call over the link alone: 0.5 us, at 4,000 instructions a microsecond. That is 1.33 a cycle at 3 GHz, and slower
# than what was measured of work like this: a breaker's record (359 of them in 85 ns), a refused call (1,900 in 280 ns).
most_added=2000
command -v valgrind >/dev/null || { echo "SKIPPED: instructions are not counted: no valgrind"; exit 0; }

test=$(cargo test -q --workspace --all-features --lib --profile "$profile" --locked --no-run --message-format=json |
  python3 -c '
import json, sys
for line in sys.stdin:
    told = json.loads(line)
    if told.get("executable") and told["target"]["name"] == "redis_holdfast":
        print(told["executable"])')
[ -n "$test" ] || { echo "!! the work to count could not be built"; exit 1; }
said=$(mktemp)
trap 'rm -f "$said" "$said".*' EXIT

# collected WAY ROUNDS: all instructions of one run.
collected() {
  HOLDFAST_ROUNDS=$2 valgrind --tool=callgrind --callgrind-out-file=/dev/null \
    "$test" --exact "instructions::$1" --test-threads=1 >"$said.$1" 2>&1 || { cat "$said.$1" >&2; return 1; }
  awk '/Collected *:/ { print $NF }' "$said.$1"
}

# count WAY: instructions of one round.
count() {
  local low high
  low=$(collected "$1" "$few") && high=$(collected "$1" "$many") || return 1
  echo "$1 $(((high - low) / (many - few)))" >>"$said"
}

ways=$("$test" --list 2>/dev/null | sed -n 's/^instructions::\(.*\): test$/\1/p')
running=0
for way in $ways; do
  count "$way" &
  running=$((running + 1))
  if [ "$running" -ge "$(nproc)" ]; then wait -n; fi
done
wait
sort -o "$said" "$said"
compiler=$(rustc --version | cut -d' ' -f1-2)
if [ -n "$keep" ]; then
  { echo "# Instructions per round, counted by scripts/instructions.sh $profile keep with $compiler on $(uname -m)."; cat "$said"; } >"$kept"
fi
python3 - "$kept" "$said" "$allowed" "$compiler on $(uname -m)" "$profile" "$most_added" <<'PYTHON'
import sys

kept, said, allowed, here, profile, most_added = sys.argv[1:]
lines = open(kept).read().splitlines()
read = lambda lines: {way: int(count) for way, count in (line.split() for line in lines if not line.startswith("#"))}
before, now = read(lines), read(open(said).read().splitlines())
moved = []
for way in sorted(before | now):
    was, now_is = before.get(way), now.get(way)
    if was is None or now_is is None:
        moved.append(f"{way}: {'not in the baseline' if was is None else 'was not counted'}")
        continue
    print(f"FIGURE instructions ({profile}) {way}: {now_is} a round, {(now_is / was - 1) * 100:+.1f} % against the baseline")
    if now_is > was * (1 + int(allowed) / 100):
        moved.append(f"{way}: {was} -> {now_is} instructions a round")
adds = now.get("call_through_the_stack", 0) - now.get("call_over_the_link_alone", 0)
print(f"FIGURE instructions ({profile}) the whole stack adds to a call over the link alone: {adds}")
if here not in lines[0]:
    print(f"the baseline is of another compiler or machine ({lines[0].lstrip('# ')}): nothing is judged")
    moved = []
for one in moved:
    print(f"!! {one}; if it is meant: scripts/instructions.sh {profile} keep")
# A promise, whatever was counted before and wherever; of optimised code alone, and of work that was counted.
is_too_much = profile == "bench" and not 0 < adds <= int(most_added)
if is_too_much:
    print(f"!! the whole stack adds {adds} instructions to a call over the link alone: more than 0.5 us, which is {most_added}")
sys.exit(bool(moved or is_too_much))
PYTHON
