#!/usr/bin/env bash
# Walks the Makefile: runs each target that needs no containers, in its smallest honest form, and says at the end what became of every one: `ran`,
# `elsewhere` (which step of CI runs it) or `skipped` (why). A target that this script doesn't know fails it, before anything is run.
# CI's last step: what the steps before have built is used again. `scripts/walk.sh list` only looks whether each target is known.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "walk.sh: $1" >&2; exit 1; }

# What becomes of a target; those that say `walk` are run below.
fate() {
  case "$1" in
    lint | test | test-faults | test-cluster | bench-guard) echo "elsewhere: $1 (a step of .ci/run)" ;;
    help | test-coverage | setup | install-deps | up | down | build | run | gen-cert | generate | generate-chat-api | generate-openapi | generate-assets | \
      vendor-proto | check | test-model | bench | bench-growth | bench-micro | profile | release | grpc-load-test | fmt | clean) echo walk ;;
    *) fail "the Makefile's target $1 is not known here: run it, or say where it is run or why it isn't" ;;
  esac
}

targets=$(sed -n 's/^\.PHONY: //p' Makefile)
for target in $targets; do fate "$target" >/dev/null; done
if [ "${1:-}" = list ]; then for target in $targets; do fate "$target"; done; exit 0; fi

work=$(mktemp -d "${TMPDIR:-/tmp}/chat-walk.XXXXXX")
serving=
finish() {
  [ -z "$serving" ] || kill -KILL -- "-$serving" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# Each target with its defaults, whatever the shell has.
unset "${!CHAT_@}" "${!BENCH_@}" "${!OTEL_@}" RUST_LOG ADDR BIN DATABASE_URL REDIS_URL ARGS PROFILES MAKEFLAGS MFLAGS MAKELEVEL

ran() { local target; for target in "$@"; do echo "ran $target" >"$work/fate.$target"; done; }
skip() { echo "skipped: $1, $2" >"$work/fate.$1"; }

# What git sees: what generates and formats must leave the tree as it was.
state() { git status --porcelain; git diff HEAD | cksum; }
before=$(state)
unchanged() { [ "$(state)" = "$before" ] || { git status --short; fail "make $1 changed files that are committed"; }; }

# walk TARGET ARGUMENTS…
walk() {
  echo "-- make $*"
  make "$@" </dev/null
  ran "$1"
}

# The same for a benchmark. So short a run says nothing of goals: they may be missed, but each row must have been measured.
measured() {
  echo "-- make $*"
  make "$@" >"$work/bench" 2>&1 </dev/null || true
  cat "$work/bench"
  grep -q '^goals: ' "$work/bench" && ! grep -q 'FAILED' "$work/bench" || fail "make $1 did not measure its row"
  ran "$1"
}

# Where no engine runs: they fail, and say why in one line beside make's own.
refused() {
  local target="$1"
  echo "-- make $target, without an engine"
  if make "$target" >"$work/out" 2>"$work/err" </dev/null; then fail "make $target found something to do"; fi
  grep -vE '^(make|skipped: )' "$work/err" >"$work/said" || true
  cat "$work/said"
  [ "$(wc -l <"$work/said")" -eq 1 ] && grep -q 'make run serves without it$' "$work/said" || fail "make $target says more or less than one line"
  ran "$target"
}

walk help
# First what must not be built anew behind `generate`, which touches the build script.
walk test-model MODEL_CASES=1
if [ "$(uname -s)" = Linux ]; then
  measured bench BENCH_PROFILE=bench-ci BENCH_SHORT=1 BENCH_ONLY=one-caller
  measured bench-growth BENCH_PROFILE=bench-ci BENCH_SHORT=1 BENCH_ONLY=growth-sqlite BENCH_STORED_MESSAGES=100000
else
  for target in bench bench-growth; do skip "$target" "the benchmark reads /proc"; done
fi
walk bench-micro BENCH_PROFILE=bench-ci ARGS=--test
if command -v valgrind >/dev/null; then walk profile BENCH_PROFILE=bench-ci PROFILE_OF=callgrind PROFILE_BENCH=message_frame
else skip profile "valgrind is not here"; fi
skip release "two builds and a training between them take a quarter of an hour"

# From a clone to a running service, as `make setup` has it where no engine runs, and `make run` at its end; in the foreground of its own terminal.
scripts/tools.sh compose
if [ -x .tools/bin/compose ] && .tools/bin/compose ps -q >/dev/null 2>&1; then
  for target in up down; do skip "$target" "a container engine runs here, and the image takes long to build"; done
  skip setup "a container engine runs here: it would be up; its parts are run"
  walk install-deps
  walk generate
  begins=run
else
  refused up
  refused down
  begins=setup
fi
echo "-- make $begins, until it serves"
set -m
CHAT_LISTEN=127.0.0.1:0 CHAT_ADMIN_LISTEN=127.0.0.1:0 DATABASE_URL="sqlite:$work/data/chat.db" NO_COLOR=1 \
  make "$begins" >"$work/served" 2>&1 </dev/null &
serving=$!
set +m
port=
for _ in $(seq 1200); do
  port=$(sed -n 's/^Serving on 127\.0\.0\.1:\([0-9]*\)\..*/\1/p' "$work/served")
  [ -z "$port" ] || break
  kill -0 "$serving" 2>/dev/null || { cat "$work/served"; fail "make $begins ended before it served"; }
  sleep 1
done
[ -n "$port" ] || { cat "$work/served"; fail "make $begins did not serve within 20 minutes"; }
grep -E '^(fetched|not fetched|verified|skipped)|Finished|test result' "$work/served" || true
ran "$begins" run generate-chat-api generate-openapi generate-assets
[ "$begins" = run ] || ran install-deps generate
unchanged "$begins"
walk check ADDR="https://localhost:$port" ARGS="--duration 2s --history $work/history.jsonl"
# Ctrl-C: everyone in the terminal's foreground gets it.
kill -INT -- "-$serving"
wait "$serving" || true
# Make's shell may be gone before the server is.
for _ in $(seq 100); do
  if grep -q 'stopped$' "$work/served"; then break; fi
  sleep 0.2
done
grep -q 'stopped$' "$work/served" || { tail -n 20 "$work/served"; fail "the server of make $begins did not stop in order"; }
if { exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null; then fail "port $port is still served"; fi
serving=

walk build
walk gen-cert ARGS="--out $work/certs"
[ -s "$work/certs/server.pem" ] || fail "make gen-cert made no certificate"
walk grpc-load-test LOAD_PROFILE=dev LOAD_SECONDS=1
walk vendor-proto
if [ -x .tools/bin/cargo-tarpaulin ] || command -v cargo-tarpaulin >/dev/null; then walk test-coverage ARGS=--lib
else skip test-coverage "cargo-tarpaulin is not here, and takes minutes to build"; fi
walk fmt
unchanged fmt

# In a copy: it would remove what the other steps need.
echo "-- make clean, in a copy"
mkdir "$work/copy"
git ls-files -z | tar --null -T - -cf - | tar -xf - -C "$work/copy"
mkdir -p "$work/copy/target/debug" "$work/copy/.tools/bin" "$work/copy/data"
(cd "$work/copy" && env -u CARGO_TARGET_DIR make clean </dev/null)
[ ! -e "$work/copy/target" ] && [ ! -e "$work/copy/.tools" ] || fail "make clean left something that was built"
[ -d "$work/copy/data" ] && [ -e "$work/copy/certs/README.md" ] || fail "make clean removed what isn't built"
ran clean

echo
for target in $targets; do
  if [ -f "$work/fate.$target" ]; then cat "$work/fate.$target"; continue; fi
  told=$(fate "$target")
  [ "$told" != walk ] || fail "$target was to be run, and wasn't"
  echo "$told"
done
