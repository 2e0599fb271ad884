#!/usr/bin/env bash
# The cluster suite: finds or installs PostgreSQL, Redis and nginx, and plays every fault on three nodes, or those whose names hold one of
# the arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/tools.sh nginx
export TEST_NGINX_BIN="$PWD/.tools/bin"
scripts/with-services.sh cargo test --locked --test cluster -- "$@"
