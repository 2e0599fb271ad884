#!/usr/bin/env bash
# Runs a command with a throwaway PostgreSQL on a free loopback port: TEST_DATABASE_URL and TEST_POSTGRES_BIN tell where.
# The server keeps fsync on, runs as an unprivileged user where this runs as root, and is gone with the command.
set -euo pipefail

find_bin() {
  local candidate
  for candidate in "$(command -v initdb 2>/dev/null || true)" /usr/lib/postgresql/*/bin/initdb /opt/homebrew/opt/postgresql*/bin/initdb \
    /usr/local/opt/postgresql*/bin/initdb /usr/pgsql-*/bin/initdb; do
    if [ -n "$candidate" ] && [ -x "$candidate" ] && [ -x "${candidate%/*}/pg_ctl" ]; then dirname "$candidate"; return; fi
  done
}

bin=$(find_bin)
if [ -z "$bin" ] && command -v apt-get >/dev/null; then
  echo "installing PostgreSQL from the system's packages" >&2
  sudo=""; [ "$(id -u)" = 0 ] || sudo="sudo -n"
  { $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq postgresql; } >&2 || true
  bin=$(find_bin)
fi
if [ -z "$bin" ]; then
  echo "PostgreSQL's server is not here and could not be installed; install it (apt-get install postgresql, brew install postgresql) and try again" >&2
  exit 1
fi

dir=$(mktemp -d "${TMPDIR:-/tmp}/chat-postgres.XXXXXX")
as=()
if [ "$(id -u)" = 0 ]; then
  user=postgres; id "$user" >/dev/null 2>&1 || user=nobody
  chown "$user" "$dir"
  if command -v runuser >/dev/null; then as=(runuser -u "$user" --)
  elif command -v setpriv >/dev/null; then as=(setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups --)
  else as=(sudo -n -u "$user"); fi
fi
run() { (cd / && ${as[@]+"${as[@]}"} "$@"); }

stop() {
  run "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1 || true
  rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

run "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C >"$dir.log" 2>&1 || { cat "$dir.log" >&2; rm -f "$dir.log"; exit 1; }
rm -f "$dir.log"

# A port that is taken, or is taken before the server has it, makes the start fail: then another one is tried.
start() {
  port=$((20000 + RANDOM % 12000))
  run "$bin/pg_ctl" -D "$dir/data" -w -l "$dir/log" -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=400" start >/dev/null 2>&1
}
retried() {
  echo "retried: $1" >&2
  [ -z "${RETRIES_FILE:-}" ] || echo "$1" >>"$RETRIES_FILE"
}
start || { retried "starting PostgreSQL"; start; } || { retried "starting PostgreSQL"; start; } || { cat "$dir/log" >&2; exit 1; }

export TEST_DATABASE_URL="postgres://postgres@127.0.0.1:$port/postgres"
export TEST_POSTGRES_BIN="$bin"
"$@"
