#!/usr/bin/env bash
# Load by ghz over TLS with a token: SendMessage, GetChat, and ConnectChat streams that send and are acknowledged. Prints each summary,
# and keeps HTML reports in target/ghz/. At most 30 s in all, and on this machine only.
#
# By itself it starts a server of its own, on SQLite or LOAD_DATABASE_URL, without rate limits. With ADDR=https://localhost:50051 it
# asks that one, by CHAT_CA and CHAT_AUTH_SECRET, which needs CHAT_RATE_LIMIT_USER_SENDS=0 and …_USER_CALLS=0 to answer everything.
# Settings: LOAD_SECONDS (of each of the three, 5), LOAD_CALLERS (32), LOAD_CONNECTIONS (4), BIN.
set -euo pipefail
cd "$(dirname "$0")/.."

bin="${BIN:-./target/release/chat-service}"
seconds="${LOAD_SECONDS:-5}" callers="${LOAD_CALLERS:-32}" connections="${LOAD_CONNECTIONS:-4}"
reports=target/ghz
fail() { echo "load-test.sh: $1" >&2; exit 1; }

[ -x "$bin" ] || fail "$bin is not there; cargo build --release makes it, or set BIN"
case "$seconds" in [1-9]) ;; *) fail "LOAD_SECONDS is $seconds; set it to 1 to 9" ;; esac
case "${ADDR:-}" in
  "") ;;
  https://localhost:*[!0-9]* | https://127.0.0.1:*[!0-9]*) fail "ADDR is $ADDR; set it to https://localhost:PORT" ;;
  https://localhost:?* | https://127.0.0.1:?*) port="${ADDR##*:}" ;;
  *) fail "ADDR is $ADDR; set it to https://localhost:PORT: load is for this machine only" ;;
esac
[ -z "${LOAD_CHECK_ONLY:-}" ] || exit 0
scripts/tools.sh ghz
ghz=.tools/bin/ghz
[ -x "$ghz" ] || fail "ghz is missing; install Go and run it again"
mkdir -p "$reports"

dir=$(mktemp -d "${TMPDIR:-/tmp}/chat-load.XXXXXX")
server=
stop() {
  [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" 2>/dev/null; } || true
  rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -n "${ADDR:-}" ]; then
  ca="${CHAT_CA:-certs/ca.pem}" secret="${CHAT_AUTH_SECRET:-certs/dev.secret}"
else
  ca="$dir/ca.pem" secret="$dir/secret"
  "$bin" gen-cert --out "$dir" 2>/dev/null
  (umask 077; od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n' >"$secret")
  CHAT_LISTEN=127.0.0.1:0 CHAT_ADMIN_LISTEN=127.0.0.1:0 DATABASE_URL="${LOAD_DATABASE_URL:-sqlite:$dir/chat.db}" \
    CHAT_TLS_CERT="$dir/server.pem" CHAT_TLS_KEY="$dir/server.key" CHAT_AUTH_SECRET="$secret" \
    CHAT_RATE_LIMIT_USER_SENDS=0 CHAT_RATE_LIMIT_USER_CALLS=0 CHAT_RATE_LIMIT_ADDRESS=0 \
    CHAT_LOG_FORMAT=json RUST_LOG=info,chat_service::rpc=warn \
    "$bin" serve >"$dir/out" 2>"$dir/log" &
  server=$!
  port=$(scripts/port-of.sh "$dir/log" "$server")
fi
echo "load on https://localhost:$port, $callers callers on $connections connections, $seconds s each" >&2

token=$("$bin" token --sub load --ttl 2m --secret "$secret")
# In a file: others can read command lines.
(umask 077; printf '{"authorization":"Bearer %s"}' "$token" >"$dir/metadata")

# Eight chats, so that they spread over the lanes. The terminal client makes each, joins, and leaves with its input's end.
chats=()
for _ in 1 2 3 4 5 6 7 8; do
  id=$(CHAT_TOKEN="$token" "$bin" connect --addr "https://localhost:$port" --ca "$ca" --create Load </dev/null 2>&1 | sed -n 's/^created chat //p')
  [ -n "$id" ] || fail "no chat could be created; does the server at $port take tokens of $secret?"
  chats+=("$id")
done
# For ids that no run before has used.
run_id=$(od -An -tx1 -N6 /dev/urandom | tr -d ' \n')

# each TEMPLATE: a JSON array of the template for each chat.
each() {
  local chat out=
  for chat in "${chats[@]}"; do out="$out,${1//CHAT/$chat}"; done
  printf '[%s]' "${out#,}"
}

# ghz writes one format a run: the report, whose numbers are shown here too.
summary() {
  sed 's/<[^>]*>//g; s/^[[:space:]]*//; s/[[:space:]]*$//' "$1" | awk '
    # Read to its end all the same: what writes into a closed pipe fails.
    over { next }
    /^(Count|Total|Slowest|Fastest|Average|Requests \/ sec)$/ && !($0 in value) { name = $0; next }
    name != "" && NF { value[name] = $0; printf "  %-16s %s\n", name, $0; name = ""; next }
    /^[0-9]+ %$/ { at[++percentiles] = $0; next }
    percentiles && got < percentiles && /^[0-9.]+ (ns|µs|ms|s)$/ { printf "  %-16s %s\n", at[++got], $0; next }
    /^% of Total$/ { statuses = 1; next }
    statuses && /^Data$/ { over = 1; next }
    statuses && /^[A-Z][A-Za-z]+$/ { code = $0; next }
    statuses && /^[0-9]+$/ && code != "" { printf "  %-16s %s\n", code, $0; code = "" }'
}

# run NAME CALL DATA CALLERS: fails where an answer wasn't OK.
run() {
  local name="$1" call="$2" report="$reports/$1.html"
  printf '%s' "$3" >"$dir/data"
  # What is under way when the time is over is waited for, and counts.
  "$ghz" --cacert "$ca" --proto proto/chat/v1/chat.proto --import-paths proto,proto/third_party --call "chat.v1.ChatService/$call" \
    --metadata-file "$dir/metadata" --data-file "$dir/data" --name "$name" -z "${seconds}s" --duration-stop wait -t 5s \
    -c "$4" --connections "$connections" -O html -o "$dir/report" "localhost:$port"
  # Neither the token nor where this machine keeps its files.
  sed "s/Bearer [A-Za-z0-9._-]*/Bearer …/g; s#$dir/##g" "$dir/report" >"$report"
  printf '\n%s (%s)\n' "$name" "$report"
  summary "$report" | tee "$dir/summary"
  awk '/^  [A-Z][A-Za-z]+ +[0-9]+$/ && $1 != "OK" && $1 != "Count" { bad = 1 } $1 == "OK" { good = 1 } END { exit bad || !good }' "$dir/summary" ||
    fail "$name: not every answer was OK; see $report"
}

send='{"chat_id":"CHAT","client_message_id":"'"$run_id"'-{{.RequestNumber}}","text":"How about a cup of tea at four o'"'"'clock, in the garden?"}'
run send-message SendMessage "$(each "$send")" "$callers"
run get-chat GetChat "$(each '{"chat_id":"CHAT"}')" "$callers"
# A stream joins a chat and sends 20 messages; the server acknowledges each, delivers up to the last, and ends it.
stream='{"join":{"chat_id":"'"${chats[0]}"'"}}'
for n in $(seq 20); do
  stream="$stream,"'{"send":{"chat_id":"'"${chats[0]}"'","client_message_id":"'"$run_id"'-s{{.RequestNumber}}-'"$n"'","text":"hello"}}'
done
run connect-chat ConnectChat "[$stream]" "$(((callers + 7) / 8 > connections ? (callers + 7) / 8 : connections))"
echo "connect-chat counts streams; each sent 20 messages"
