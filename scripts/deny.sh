#!/usr/bin/env bash
# What dependencies may be: licences, banned crates and sources always, known vulnerabilities where their database can be had.
# cargo-deny is used where it is installed, on the PATH or in .tools/bin; it takes minutes to build, so nothing builds it here.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.tools/bin:$PATH"

loud() { printf '\n!!! %s\n\n' "$1" >&2; }

command -v cargo-deny >/dev/null || { loud "skipped: cargo deny; to have it: cargo install --locked cargo-deny"; exit 0; }

cargo deny check bans licenses sources

databases="${CARGO_HOME:-$HOME/.cargo}/advisory-dbs"
# A clone that broke off has no commit.
copy() {
  local database
  for database in "$databases"/*/; do git -C "$database" rev-parse -q --verify HEAD >/dev/null 2>&1 && return; done
  return 1
}
if cargo deny fetch db >/dev/null 2>&1; then
  cargo deny check --disable-fetch advisories
elif copy; then
  loud "the database of advisories can't be fetched: checking against the copy in $databases, which may be old"
  cargo deny check --disable-fetch advisories
else
  loud "NOT CHECKED: known vulnerabilities of dependencies. The database of advisories can't be fetched and no copy is here"
fi
