#!/usr/bin/env bash
# The release binary, laid out by what it does under load: it is built to count, counts while the benchmark and the delivery checker use it, and is built
# anew by what it counted. The same is done to the benchmark's own program, with bare tonic in it: what is compared is built alike.
#
# Into target/guided/built. Counting is done again only when what counts has changed.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(uname -s)" = Linux ] || { echo "the benchmark, which trains the build, reads /proc: this runs on Linux; cargo build --release works without it" >&2; exit 1; }
ulimit -n "$(ulimit -Hn)"

out="$PWD/target/guided"
host=$(rustc -vV | sed -n 's/^host: //p')
merge="$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata"
if [ ! -x "$merge" ]; then
  rustup component add llvm-tools || { echo "the toolchain's llvm-profdata is missing: rustup component add llvm-tools" >&2; exit 1; }
fi

# A target is named, so that build scripts and macros, which run while building, don't count.
build() { # folder, flag
  RUSTFLAGS="${RUSTFLAGS:-} $2" CARGO_TARGET_DIR="$out/$1" cargo bench --locked --bench macro --no-run --target "$host" --message-format=json-render-diagnostics |
    sed -n 's/.*"name":"macro".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

macro=$(build counting "-Cprofile-generate=$out/counts")
server="$out/counting/$host/release/chat-service"
key=$(cat "$macro" "$server" | sha256sum | cut -c1-16)
profile="$out/$key.profdata"

# Two nodes on one PostgreSQL and one Redis, under the delivery checker.
check() (
  ground=$(mktemp -d)
  nodes=()
  trap 'kill "${nodes[@]}" 2>/dev/null || true; rm -rf "$ground"' EXIT
  (umask 077; od -An -tx1 -N32 /dev/urandom | tr -d ' \n' >"$ground/secret")
  "$server" gen-cert --out "$ground/certs"
  addresses=()
  for node in 1 2; do
    CHAT_LOG_FORMAT=json "$server" serve --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --database-url "$TEST_DATABASE_URL" \
      --redis-url "$TEST_REDIS_URL" --auth-secret "$ground/secret" --tls-cert "$ground/certs/server.pem" --tls-key "$ground/certs/server.key" \
      --rate-limit-user-sends 0 --rate-limit-user-calls 0 --rate-limit-address 0 2>"$ground/log-$node" &
    nodes+=($!)
    port=$(scripts/port-of.sh "$ground/log-$node" $!)
    addresses+=("https://localhost:$port")
  done
  "$server" check --addr "${addresses[0]},${addresses[1]}" --ca "$ground/certs/ca.pem" --auth-secret "$ground/secret" \
    --history "$ground/history.jsonl" --duration 15s --rate 2000
  # They write what they counted at their end.
  kill "${nodes[@]}"
  wait "${nodes[@]}"
)

train() {
  # A missed goal, 1, is nothing that matters here.
  BENCH_ONLY=one-,callers,pipelined,fanout,paced,groups,comeback BENCH_ROUNDS=1 BENCH_SECONDS=1.5 "$macro" --bench || [ $? = 1 ]
  check
}

if [ ! -f "$profile" ]; then
  rm -rf "$out/counts" "$out/built" "$out"/*.profdata
  export -f train check
  export macro server
  scripts/with-services.sh bash -euo pipefail -c train
  "$merge" merge --sparse -o "$profile.part" "$out"/counts/*.profraw
  mv "$profile.part" "$profile"
fi
build built "-Cprofile-use=$profile" >"$out/macro"
echo "guided by its profile: $out/built/$host/release/chat-service"
