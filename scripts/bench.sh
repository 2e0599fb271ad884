#!/usr/bin/env bash
# The macro benchmark, with a throwaway PostgreSQL that flushes what it commits. Arguments: nothing, or `growth`.
# BENCH_ROUNDS, BENCH_SECONDS, BENCH_ONLY, BENCH_SHORT, … : benches/macro/options.rs and docs/performance.md. BENCH_PROFILE: cargo's, `bench` by default.
# BENCH_GUIDED=1: both servers as scripts/release.sh builds them.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(uname -s)" = Linux ] || { echo "the benchmark reads /proc: it runs on Linux" >&2; exit 1; }
# Thousands of connections on both sides; the rows that need more than is allowed say so.
ulimit -n "$(ulimit -Hn)"
if [ "${BENCH_GUIDED:-0}" = 1 ]; then
  scripts/release.sh
  scripts/with-services.sh "$(cat target/guided/macro)" --bench "$@"
  exit
fi
# Built before PostgreSQL runs: nothing competes with what is measured.
profile="${BENCH_PROFILE:-bench}"
cargo bench --locked --profile "$profile" --bench macro --no-run
scripts/with-services.sh cargo bench --locked --profile "$profile" --bench macro -- "$@"
