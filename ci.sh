#!/usr/bin/env bash
# Everything that must hold, in one command.
#
#   ./ci.sh         all tiers with small counts: format, lints, docs, tests (20 minutes at most on two cores)
#   ./ci.sh full    every figure as promised, and the benches; writes docs/proof.md
#
# Fetches the servers it needs (Python wheels, only unzipped) and, as root, installs nftables for the packet drops.
# A missing tier is one loud line, and a failure where CI is set. Ends with one line: N passed, N failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 2

mode=${1:-quick}
case $mode in
  quick) ;;
  full) export HOLDFAST_FULL=1 ;;
  *) echo "usage: ./ci.sh [full]" >&2; exit 2 ;;
esac
export REQUIRE_SERVERS=1
export CARGO_TERM_COLOR=never
export CARGO_INCREMENTAL=0 # Built once, so nothing to build upon; a third of the disk.

log=$(mktemp)
trap 'rm -f "$log" "$log".*' EXIT
passed=0 failed=0 skipped=0 troubles=()

say() { printf '\n== %s\n' "$*"; }
trouble() { failed=$((failed + 1)); troubles+=("$1"); printf '!! %s\n' "$1"; }

# check NAME COMMAND...: one thing that holds or does not.
check() {
  local name=$1
  shift
  say "$name"
  if "$@"; then passed=$((passed + 1)); else trouble "$name"; fi
}

# tests NAME COMMAND...: counts what its "test result:" lines say; an end without any is one failure.
tests() {
  local name=$1 status good bad
  shift
  say "$name"
  "$@" 2>&1 | tee "$log.part"
  status=${PIPESTATUS[0]}
  cat "$log.part" >>"$log"
  good=$(sum passed "$log.part")
  bad=$(sum failed "$log.part")
  passed=$((passed + good))
  failed=$((failed + bad))
  skipped=$((skipped + $(grep -c 'SKIPPED: ' "$log.part")))
  if [ "$bad" -gt 0 ]; then troubles+=("$name: $bad failed"); fi
  if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then trouble "$name did not finish (status $status)"; fi
}

sum() {
  grep -E '^test result: ' "$2" | grep -oE "[0-9]+ $1" | awk '{ n += $1 } END { print n + 0 }'
}

# Where each failed test panicked and with which words, again at the end: a long log is seldom read whole.
why() {
  awk '/^test .* \.\.\. FAILED$/ { failed[$2] = 1 }
    pass == 2 && told > 0 { print "   " $0; told-- }
    pass == 2 && match($0, /^thread \x27[^\x27]+\x27/) && / panicked at / {
      if (substr($0, 9, RLENGTH - 9) in failed) { print; told = 2 }
    }' "$1" pass=2 "$1"
}

limited() {
  if command -v timeout >/dev/null 2>&1; then timeout --kill-after=30 "$@"; else shift; "$@"; fi
}

prepare() {
  say "servers"
  if [ "$mode" = full ]; then scripts/servers.sh all; else scripts/servers.sh; fi ||
    echo "!! a server could not be fetched; tests that need one will fail and say so"
  for server in target/servers/*/*-server; do "$server" --version; done
  if ! command -v nft >/dev/null 2>&1 && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "nftables"
    { apt-get update -q && apt-get install -y -q --no-install-recommends nftables iproute2; } >"$log.apt" 2>&1 ||
      { tail -n 5 "$log.apt"; echo "!! nftables could not be installed; the network tier will say so"; }
  fi
}

# Each feature alone, and none: whoever switches one off must still have a crate.
each_feature() {
  local features one
  features=$(cargo metadata --no-deps --format-version 1 --locked | python3 -c '
import json, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "redis-holdfast":
        print(*(name for name in package["features"] if name != "default"))') || return 1
  [ -n "$features" ] || return 0
  cargo check -q -p redis-holdfast --no-default-features --locked || return 1
  for one in $features; do
    echo "$one"
    cargo check -q -p redis-holdfast --no-default-features --features "$one" --locked || return 1
  done
}

# told COMMAND...: its figures go where the tests' own go.
told() {
  limited 600 "$@" 2>&1 | tee -a "$log"
  return "${PIPESTATUS[0]}"
}

# labelled LABEL COMMAND...: its figures say what they were measured on.
labelled() {
  local label=$1
  shift
  "$@" 2>&1 | sed "s/FIGURE /FIGURE [$label] /"
  return "${PIPESTATUS[0]}"
}

# The server of the scenarios: the one that the lab would take by itself (`lab/src/server/find.rs`).
first_server() {
  local name
  for name in redis-server valkey-server; do
    command -v "$name" && return
  done
  printf '%s\n' target/servers/*/*-server | LC_ALL=C sort -r | head -n 1
}

# The Sentinel suite with small counts on every other server that was fetched; the scenarios ran it as written on the first.
each_server() {
  local server first version versions=
  first=$(realpath "${HOLDFAST_SERVER:-$(first_server)}")
  for server in target/servers/*/*-server; do
    version=$("$server" --version | sed -E 's/^([A-Za-z]+) server v=([0-9.]+).*/\1 \2/')
    versions="$versions, $version"
    [ "$(realpath "$server")" = "$first" ] && continue
    tests "Sentinel suite on $version" labelled "$version" limited 1800 \
      env -u HOLDFAST_FULL HOLDFAST_SERVER="$PWD/$server" \
      cargo test --workspace --all-features --test 'sentinel_*' --locked --no-fail-fast -- --test-threads=1 --show-output
  done
  for version in "Redis 6.2" "Redis 7.0" "Valkey"; do
    case $versions in
      *", $version"*) ;;
      *)
        echo "!! $version is not here: the Sentinel suite did not run on it"
        if [ -n "${CI:-}" ]; then trouble "Sentinel suite on $version"; fi
        ;;
    esac
  done
}

proof() {
  mkdir -p docs
  {
    echo "# Proof"
    echo
    echo "What \`./ci.sh full\` measured; every line was printed by the test or bench that asserts it."
    echo
    echo "- date: $(date -u +%Y-%m-%d), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
    echo "- system: $(uname -s) $(uname -r | grep -oE '^[0-9.]+[0-9]'), $(nproc) cores, $(rustc --version | cut -d' ' -f1-2)"
    for server in target/servers/*/*-server; do
      echo "- server: $("$server" --version | cut -d' ' -f1-3)"
    done
    echo "- tests: $passed passed, $failed failed"
    echo
    grep -oE 'FIGURE .*' "$log" | sed 's/^FIGURE /- /' | sort -u
  } >docs/proof.md
  echo "figures are in docs/proof.md"
}

start=$SECONDS
prepare
check "format" cargo fmt --all --check
check "lints" cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
check "each feature alone" each_feature
# As cargo-fuzz builds them, without its instruments: their bodies are run by the unit tests.
check "fuzz targets" env RUSTFLAGS="--cfg fuzzing" cargo check -q --manifest-path fuzz/Cargo.toml --target-dir target/fuzz --locked
check "docs" env RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --workspace --all-features --locked
if cargo deny --version >/dev/null 2>&1; then
  check "licences and advisories" cargo deny check
else
  say "licences and advisories"
  echo "!! cargo-deny is not installed: deny.toml was not checked"
fi
# Pure tests side by side; those against the clock one at a time.
operations=1000000 limit=900
if [ "$mode" = full ]; then operations=10000000 limit=3600; fi
tests "unit tests" limited $limit env HOLDFAST_OPERATIONS=$operations cargo test --workspace --all-features --lib --bins --locked -- --show-output
# A test of cancellation that a broken link passes would prove nothing.
check "mutants are caught" told scripts/mutants.sh
tests "loom" limited $limit scripts/loom.sh
check "instructions" told scripts/instructions.sh test
if [ "$mode" = full ]; then check "instructions, optimised" told scripts/instructions.sh bench; fi
tests "doc tests" limited 900 cargo test --workspace --all-features --doc --locked
limit=2700
if [ "$mode" = full ]; then limit=14400; fi
tests "scenarios" limited $limit cargo test --workspace --all-features --test '*' --locked --no-fail-fast -- --test-threads=1 --show-output
if [ "$mode" = full ]; then
  each_server
  # The ignored ones are measurements: optimised, like the benches, or they say nothing.
  proof # Already now: whoever has to stop the benches keeps the rest.
  tests "measurements" limited 1200 cargo test --profile bench -p redis-holdfast --all-features --lib --locked -- --ignored --show-output
  tests "isolation, optimised" limited 1200 cargo test --profile bench -p redis-holdfast --all-features --test isolation --locked -- --show-output
  say "benches"
  limited 5400 cargo bench --workspace --benches --locked --no-fail-fast 2>&1 | tee "$log.part"
  [ "${PIPESTATUS[0]}" -eq 0 ] || trouble "benches"
  cat "$log.part" >>"$log"
fi

say "figures"
grep -oE 'FIGURE .*' "$log" | sort -u
if [ "$mode" = full ]; then proof; fi
if [ "$failed" -gt 0 ]; then say "failures"; why "$log"; fi
echo "took $((SECONDS - start)) s"
for one in ${troubles[@]+"${troubles[@]}"}; do echo "!! $one"; done
line="$passed passed, $failed failed"
if [ "$skipped" -gt 0 ]; then line="$line, $skipped skipped"; fi
echo "$line"
[ "$failed" -eq 0 ]
