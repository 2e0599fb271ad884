#!/usr/bin/env bash
# The whole suite: finds or installs what it needs, starts it, runs the tests, stops it.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/tools.sh grpcurl python gotokens jose promtool
if [ -x .tools/bin/grpcurl ]; then export TEST_GRPCURL="$PWD/.tools/bin/grpcurl"; fi
if [ -f .tools/venv/ready ]; then export TEST_PYTHON="$PWD/.tools/venv/bin/python"; fi
if [ -x .tools/bin/gotokens ]; then export TEST_GO_TOKENS="$PWD/.tools/bin/gotokens"; fi
if [ -f .tools/npm/jose ]; then export TEST_NODE_MODULES="$PWD/.tools/npm/node_modules"; fi
if [ -x .tools/bin/promtool ]; then export TEST_PROMTOOL="$PWD/.tools/bin/promtool"; fi

scripts/with-services.sh cargo test --locked --no-fail-fast -- --test-threads=4

echo "summary: unit tests, the storage suite and the end-to-end tests passed on SQLite and PostgreSQL"
if [ -z "${TEST_GRPCURL:-}" ]; then echo "skipped: grpcurl"; fi
if [ -z "${TEST_PYTHON:-}" ]; then echo "skipped: the Python client, tokens by PyJWT"; fi
if [ -z "${TEST_GO_TOKENS:-}" ]; then echo "skipped: tokens by golang-jwt"; fi
if [ -z "${TEST_NODE_MODULES:-}" ]; then echo "skipped: tokens by jose"; fi
if [ -z "${TEST_PROMTOOL:-}" ]; then echo "skipped: the check of alert rules by promtool"; fi
