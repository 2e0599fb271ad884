#!/usr/bin/env bash
# The fault suite: finds or installs PostgreSQL, and plays every fault, or those whose names hold one of the arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/with-services.sh cargo test --locked --test faults -- "$@"
