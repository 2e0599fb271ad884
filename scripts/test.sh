#!/usr/bin/env bash
# The whole suite: finds or installs what it needs, starts it, runs the tests, stops it.
set -euo pipefail
cd "$(dirname "$0")/.."

# Only what is fetched and what is started is tried again, never a test. What was is told at the end.
RETRIES_FILE=$(mktemp "${TMPDIR:-/tmp}/chat-retries.XXXXXX")
# What tests say that they didn't try on this machine.
SKIPPED_FILE=$(mktemp "${TMPDIR:-/tmp}/chat-skipped.XXXXXX")
export RETRIES_FILE SKIPPED_FILE
tell() {
  sort -u "$SKIPPED_FILE" | sed 's/^/skipped: /'
  if [ -s "$RETRIES_FILE" ]; then sort "$RETRIES_FILE" | uniq -c | sed 's/^ *\([0-9]*\) /retried: \1 × /'; else echo "retried: nothing"; fi
  rm -f "$RETRIES_FILE" "$SKIPPED_FILE"
}
trap tell EXIT

scripts/tools.sh grpcurl python gotokens jose connectweb schemathesis browser goexample tsexample promtool otelcol sqlite3
if [ -x .tools/bin/grpcurl ]; then export TEST_GRPCURL="$PWD/.tools/bin/grpcurl"; fi
if [ -f .tools/venv/ready ]; then export TEST_PYTHON="$PWD/.tools/venv/bin/python"; fi
if [ -x .tools/bin/gotokens ]; then export TEST_GO_TOKENS="$PWD/.tools/bin/gotokens"; fi
if [ -f .tools/npm/jose ]; then export TEST_NODE_MODULES="$PWD/.tools/npm/node_modules"; fi
if [ -f .tools/schemathesis/ready ]; then export TEST_SCHEMATHESIS="$PWD/.tools/schemathesis/bin/schemathesis"; fi
if [ -f .tools/chromium ]; then
  TEST_CHROMIUM=$(cat .tools/chromium)
  export TEST_CHROMIUM TEST_PUPPETEER="$PWD/.tools/npm/node_modules"
fi
if [ -x .tools/bin/go-chat-client ]; then export TEST_GO_CHAT="$PWD/.tools/bin/go-chat-client"; fi
if [ -x examples/typescript/node_modules/.bin/tsx ]; then export TEST_TSX="$PWD/examples/typescript/node_modules/.bin/tsx"; fi
if [ -f .tools/npm/connectweb ]; then export TEST_CONNECT_WEB="$PWD/.tools/npm/node_modules"; fi
if [ -x .tools/bin/promtool ]; then export TEST_PROMTOOL="$PWD/.tools/bin/promtool"; fi
if [ -x .tools/bin/otelcol ]; then export TEST_OTELCOL="$PWD/.tools/bin/otelcol"; fi
if [ -x .tools/bin/sqlite3 ]; then export TEST_SQLITE3="$PWD/.tools/bin/sqlite3"; fi

scripts/with-services.sh cargo test --locked --no-fail-fast -- --test-threads=4

echo "summary: unit tests, the storage suite and the end-to-end tests passed on SQLite and PostgreSQL, and two nodes on one Redis"
echo "without containers: the commands and the environment of docker-compose.yml were run by the binary itself; no image was built, no container started"
if [ -z "${TEST_GRPCURL:-}" ]; then echo "skipped: grpcurl"; fi
if [ -z "${TEST_PYTHON:-}" ]; then echo "skipped: the example in Python, tokens by PyJWT"; fi
if [ -z "${TEST_GO_TOKENS:-}" ]; then echo "skipped: tokens by golang-jwt"; fi
if [ -z "${TEST_NODE_MODULES:-}" ]; then echo "skipped: tokens by jose"; fi
if [ -z "${TEST_SCHEMATHESIS:-}" ]; then echo "skipped: REST by schemathesis"; fi
if [ -z "${TEST_CHROMIUM:-}" ]; then echo "skipped: the chat page in a browser"; fi
if [ -z "${TEST_GO_CHAT:-}" ]; then echo "skipped: the example in Go"; fi
if [ -z "${TEST_TSX:-}" ]; then echo "skipped: the example in TypeScript"; fi
if [ -z "${TEST_CONNECT_WEB:-}" ]; then echo "skipped: gRPC-web by connect-web"; fi
if [ -z "${TEST_PROMTOOL:-}" ]; then echo "skipped: the check of alert rules by promtool"; fi
if [ -z "${TEST_OTELCOL:-}" ]; then echo "skipped: traces through an OpenTelemetry Collector"; fi
if [ -z "${TEST_SQLITE3:-}" ]; then echo "skipped: the backup of SQLite by sqlite3"; fi
