#!/usr/bin/env bash
# port-of.sh LOG PID: the port of a server that was started on one of the system's choice, found in its log of JSON lines; fails, and shows the log, where
# it ends or takes longer than 10 s. It writes `serving` when it does, with its address: 127.0.0.1:PORT.
set -euo pipefail

for _ in $(seq 100); do
  port=$(sed -n '/"serving"/ s/.*"address":"[^"]*:\([0-9]*\))*".*/\1/p' "$1")
  if [ -n "$port" ]; then echo "$port"; exit; fi
  kill -0 "$2" 2>/dev/null || { cat "$1" >&2; echo "the server ended at its start" >&2; exit 1; }
  sleep 0.1
done
cat "$1" >&2
echo "the server didn't start within 10 s" >&2
exit 1
