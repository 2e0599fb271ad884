#!/usr/bin/env bash
# Where the time goes, into target/profile. PROFILE_OF:
#   perf       samples of a row's server process (BENCH_ONLY, by default callers-32) by perf; the default where perf works
#   callgrind  instructions of the micro benchmarks whose names hold PROFILE_BENCH (by default all), by valgrind
#   heap       memory of the server process, by valgrind's dhat, while `check` uses it
# BENCH_PROFILE: cargo's of what is built for the first two, `bench` by default.
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/profile
mkdir -p "$out"
profile="${BENCH_PROFILE:-bench}"

kind="${PROFILE_OF:-}"
if [ -z "$kind" ]; then
  if perf record -q -o /dev/null true >/dev/null 2>&1; then kind=perf; else kind=callgrind; fi
fi
need() { command -v "$1" >/dev/null || { echo "$1 is not here; install it (apt-get install $2)" >&2; exit 1; }; }

# The path of a bench program, built with symbols.
program() { cargo bench --locked --profile "$profile" --bench "$1" --no-run --message-format=json 2>/dev/null | sed -n "s/.*\"name\":\"$1\".*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1; }

case "$kind" in
  perf)
    need perf linux-perf
    ulimit -n "$(ulimit -Hn)"
    cargo bench --locked --profile "$profile" --bench macro --no-run
    export BENCH_ONLY="${BENCH_ONLY:-callers-32}" BENCH_ROUNDS="${BENCH_ROUNDS:-2}"
    # A missed goal is no reason to lose the samples.
    perf record -a -F 499 -g -o "$out/perf.data" -- scripts/with-services.sh cargo bench --locked --profile "$profile" --bench macro || true
    # Threads of all runtimes have the same name: the program that the code is of tells them apart.
    macro=$(basename "$(program macro)")
    report() { perf report -i "$out/perf.data" --no-children -g none --percent-limit 0.3 --stdio "$@" 2>/dev/null; }
    report --dsos chat-service --sort symbol >"$out/server.txt"
    report --dsos "$macro" --sort symbol >"$out/bare-and-client.txt"
    report --comm postgres --sort dso,symbol >"$out/postgres.txt"
    report --sort comm,dso >"$out/shares.txt"
    echo "perf: $out/{server,bare-and-client,postgres,shares}.txt; perf report -i $out/perf.data shows it all"
    ;;
  callgrind)
    need valgrind valgrind
    micro=$(program micro)
    [ -x "$micro" ] || { echo "the micro benchmarks could not be built" >&2; exit 1; }
    # One turn each: instructions are counted, not timed.
    valgrind --tool=callgrind --callgrind-out-file="$out/callgrind.out" "$micro" --bench --profile-time 1 ${PROFILE_BENCH:+"$PROFILE_BENCH"}
    callgrind_annotate --auto=no "$out/callgrind.out" >"$out/callgrind.txt"
    echo "callgrind: $out/callgrind.txt"
    ;;
  heap)
    need valgrind valgrind
    cargo build --locked --release --features system-allocator
    ground=$(mktemp -d)
    server=
    trap 'kill $server 2>/dev/null || true; rm -rf "$ground"' EXIT
    bin=target/release/chat-service
    $bin gen-cert --out "$ground/certs"
    (umask 077; od -An -tx1 -N32 /dev/urandom | tr -d ' \n' >"$ground/secret")
    CHAT_AUTH_SECRET="$ground/secret" valgrind --tool=dhat --dhat-out-file="$out/dhat.out" $bin serve --listen 127.0.0.1:50151 \
      --admin-listen 127.0.0.1:50152 --database-url "sqlite:$ground/chat.db" --tls-cert "$ground/certs/server.pem" \
      --tls-key "$ground/certs/server.key" --rate-limit-user-sends 0 --rate-limit-user-calls 0 --rate-limit-address 0 &
    server=$!
    until $bin health --admin 127.0.0.1:50152 2>/dev/null; do kill -0 "$server"; sleep 1; done
    $bin check --addr https://localhost:50151 --ca "$ground/certs/ca.pem" --auth-secret "$ground/secret" --history "$ground/history.jsonl" \
      --duration "${PROFILE_TIME:-20s}"
    kill -TERM "$server"
    wait "$server" || true
    echo "heap: $out/dhat.out; valgrind's dh_view.html shows it"
    ;;
  *) echo "PROFILE_OF is $kind; perf, callgrind or heap" >&2; exit 2 ;;
esac
