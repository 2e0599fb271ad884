#!/usr/bin/env bash
# CI's guard against slowness: the rows that are stable, short, and built by a profile that costs less to build. Fails where a ratio
# is under 0.7 × its goal, or over its goal ÷ 0.7. A run that fails is repeated once: a machine may have been busy.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(uname -s)" = Linux ] || { echo "skipped: the bench guard reads /proc and runs on Linux" >&2; exit 0; }
ulimit -n "$(ulimit -Hn)"
cargo bench --locked --profile bench-ci --bench macro --no-run
guard() { scripts/with-services.sh cargo bench --locked --profile bench-ci --bench macro -- guard; }
guard || { echo "the guard failed; once more" >&2; guard; }
