#!/usr/bin/env bash
# Runs a command with a throwaway PostgreSQL and a throwaway Redis on free loopback ports: TEST_DATABASE_URL and TEST_POSTGRES_BIN, and
# TEST_REDIS_URL and TEST_REDIS_BIN, tell where. PostgreSQL keeps fsync on, Redis keeps nothing; both run as an unprivileged user where
# this runs as root, and are gone with the command.
set -euo pipefail

find_bin() {
  local candidate
  for candidate in "$(command -v initdb 2>/dev/null || true)" /usr/lib/postgresql/*/bin/initdb /opt/homebrew/opt/postgresql*/bin/initdb \
    /usr/local/opt/postgresql*/bin/initdb /usr/pgsql-*/bin/initdb; do
    if [ -n "$candidate" ] && [ -x "$candidate" ] && [ -x "${candidate%/*}/pg_ctl" ]; then dirname "$candidate"; return; fi
  done
}

find_redis() {
  local candidate
  for candidate in "$(command -v redis-server 2>/dev/null || true)" /opt/homebrew/opt/redis/bin/redis-server /usr/local/opt/redis/bin/redis-server \
    "$(command -v valkey-server 2>/dev/null || true)"; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then echo "$candidate"; return; fi
  done
}

retried() {
  echo "retried: $1" >&2
  [ -z "${RETRIES_FILE:-}" ] || echo "$1" >>"$RETRIES_FILE"
}

# A mirror that doesn't answer is asked again; a sudo that wants a password isn't.
install() {
  local sudo="" try
  command -v apt-get >/dev/null || return 0
  if [ "$(id -u)" != 0 ]; then
    sudo="sudo -n"
    $sudo true || return 0
  fi
  echo "installing $1 from the system's packages" >&2
  for try in 1 2 3; do
    if { $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2"; } >&2; then return 0; fi
    [ "$try" = 3 ] || { retried "installing $1"; sleep $((try * 2)); }
  done
}

# The folder of a program behind its links. `readlink -f` isn't on every macOS.
folder_of() {
  local program="$1" link
  while [ -L "$program" ]; do
    link=$(readlink "$program")
    case "$link" in /*) program="$link" ;; *) program="$(dirname "$program")/$link" ;; esac
  done
  (cd -P "$(dirname "$program")" && pwd)
}

bin=$(find_bin)
if [ -z "$bin" ]; then install PostgreSQL postgresql; bin=$(find_bin); fi
if [ -z "$bin" ]; then
  echo "PostgreSQL's server is not here and could not be installed; install it (apt-get install postgresql, brew install postgresql) and try again" >&2
  exit 1
fi

redis=$(find_redis)
if [ -z "$redis" ]; then install Redis redis-server; redis=$(find_redis); fi
if [ -z "$redis" ]; then
  echo "Redis's server (7 or newer) is not here and could not be installed; install it (apt-get install redis-server, brew install redis) and try again" >&2
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
  if [ -f "$dir/redis.pid" ]; then kill -9 "$(cat "$dir/redis.pid")" 2>/dev/null || true; fi
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
start || { retried "starting PostgreSQL"; start; } || { retried "starting PostgreSQL"; start; } || { cat "$dir/log" >&2; exit 1; }

# A port that is taken ends the server again; one that answers is asked whether it is this one.
start_redis() {
  local tries answer=""
  redis_port=$((20000 + RANDOM % 12000))
  run "$redis" --port "$redis_port" --bind 127.0.0.1 --save "" --appendonly no --dir "$dir" --pidfile "$dir/redis.pid" --logfile "$dir/redis.log" \
    --daemonize yes >/dev/null 2>&1 || return 1
  for tries in $(seq 100); do
    if [ -f "$dir/redis.pid" ] && { exec 3<>"/dev/tcp/127.0.0.1/$redis_port"; } 2>/dev/null; then
      printf 'INFO server\r\n' >&3
      while IFS= read -r -t 2 answer <&3; do case "$answer" in process_id:*) break ;; esac; done
      exec 3>&-
      [ "process_id:$(cat "$dir/redis.pid")" = "${answer%$'\r'}" ] && return 0
      return 1
    fi
    sleep 0.05
  done
  return 1
}
start_redis || { retried "starting Redis"; start_redis; } || { retried "starting Redis"; start_redis; } || { cat "$dir/redis.log" >&2; exit 1; }

export TEST_REDIS_URL="redis://127.0.0.1:$redis_port"
export TEST_REDIS_BIN="$redis"
export TEST_DATABASE_URL="postgres://postgres@127.0.0.1:$port/postgres"
TEST_POSTGRES_BIN=$(folder_of "$bin/initdb")
export TEST_POSTGRES_BIN
"$@"
