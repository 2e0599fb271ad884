#!/usr/bin/env bash
# Puts foreign tools, which only widen the checks, into .tools: grpcurl, a Python with grpcio, buf. What is there is kept.
# Where one can't be had: with CI=true a failure, else a line that says what is skipped.
# Usage: scripts/tools.sh grpcurl|python|buf|all …
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .tools/bin

absent() {
  echo "skipped: $1 (install $2 to have it)" >&2
  [ "${CI:-}" != true ]
}

grpcurl() {
  [ -x .tools/bin/grpcurl ] && return
  local found; found=$(type -P grpcurl || true)
  if [ -n "$found" ]; then ln -sf "$found" .tools/bin/grpcurl; return; fi
  command -v go >/dev/null || { absent "the checks by grpcurl" "Go"; return; }
  GOBIN="$PWD/.tools/bin" go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3 >&2 || absent "the checks by grpcurl" "grpcurl"
}

python() {
  [ -f .tools/venv/ready ] && return
  command -v python3 >/dev/null || { absent "the checks by a Python client" "Python 3"; return; }
  { python3 -m venv .tools/venv && .tools/venv/bin/pip install -q grpcio==1.85.1 grpcio-tools==1.85.1 && touch .tools/venv/ready; } >&2 ||
    absent "the checks by a Python client" "grpcio"
}

buf() {
  [ -x .tools/npm/node_modules/.bin/buf ] && return
  command -v npm >/dev/null || { absent "buf lint" "Node.js"; return; }
  npm install --silent --no-audit --no-fund --prefix .tools/npm @bufbuild/buf@1.75.0 >&2 || absent "buf lint" "buf"
}

for tool in "$@"; do
  case "$tool" in
    grpcurl | python | buf) "$tool" ;;
    all) grpcurl; python; buf ;;
    *) echo "tools.sh: there is no tool '$tool'; grpcurl, python, buf or all" >&2; exit 2 ;;
  esac
done
