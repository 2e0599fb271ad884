#!/usr/bin/env bash
# Puts foreign tools, which only widen the checks, into .tools: grpcurl, a Python with grpcio and PyJWT, tokens by Go, jose for
# Node.js, buf, Prometheus's promtool. What is there is kept. Where one can't be had: with CI=true a failure, else a line that says what is skipped.
# Usage: scripts/tools.sh grpcurl|python|gotokens|jose|buf|promtool|all …
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
  local packages="grpcio==1.85.1 grpcio-tools==1.85.1 pyjwt[crypto]==2.15.1"
  [ "$(cat .tools/venv/ready 2>/dev/null)" = "$packages" ] && return
  rm -f .tools/venv/ready
  command -v python3 >/dev/null || { absent "the checks by Python" "Python 3"; return; }
  # Unquoted: one word a package.
  { python3 -m venv .tools/venv && .tools/venv/bin/pip install -q $packages && echo "$packages" >.tools/venv/ready; } >&2 ||
    absent "the checks by Python" "grpcio and PyJWT"
}

gotokens() {
  command -v go >/dev/null || { absent "tokens by Go" "Go"; return; }
  # Go keeps what it has built, and knows whether it is current.
  go build -C tests/foreign/gotokens -o "$PWD/.tools/bin/gotokens" . >&2 || { rm -f .tools/bin/gotokens; absent "tokens by Go" "golang-jwt"; }
}

jose() {
  [ "$(cat .tools/npm/jose 2>/dev/null)" = 6.2.18 ] && return
  rm -f .tools/npm/jose
  command -v npm >/dev/null || { absent "tokens by Node.js" "Node.js"; return; }
  { npm install --silent --no-audit --no-fund --prefix .tools/npm jose@6.2.18 && echo 6.2.18 >.tools/npm/jose; } >&2 ||
    absent "tokens by Node.js" "jose"
}

buf() {
  [ -x .tools/npm/node_modules/.bin/buf ] && return
  command -v npm >/dev/null || { absent "buf lint" "Node.js"; return; }
  npm install --silent --no-audit --no-fund --prefix .tools/npm @bufbuild/buf@1.75.0 >&2 || absent "buf lint" "buf"
}

promtool() {
  [ -x .tools/bin/promtool ] && return
  local found folder; found=$(type -P promtool || true)
  if [ -n "$found" ]; then ln -sf "$found" .tools/bin/promtool; return; fi
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { absent "the check of alert rules" "Prometheus"; return; }
  folder=$(mktemp -d)
  # Unpacked and not installed: installed, the package would start a server, on the port that this service's metrics have.
  { (cd "$folder" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } &&
    dpkg-deb -x prometheus_*.deb unpacked) && cp "$folder/unpacked/usr/bin/promtool" .tools/bin/promtool; } >&2 ||
    absent "the check of alert rules" "Prometheus" || { rm -rf "$folder"; return 1; }
  rm -rf "$folder"
}

for tool in "$@"; do
  case "$tool" in
    grpcurl | python | gotokens | jose | buf | promtool) "$tool" ;;
    all) grpcurl; python; gotokens; jose; buf; promtool ;;
    *) echo "tools.sh: there is no tool '$tool'; grpcurl, python, gotokens, jose, buf, promtool or all" >&2; exit 2 ;;
  esac
done
