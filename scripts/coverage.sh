#!/usr/bin/env bash
# Coverage of src/ by the tests that need no foreign tools, as HTML into target/tarpaulin. By LLVM's instrumentation, which counts what the real
# binary does in the tests that start it, too, where it ends by itself: kill -9 writes nothing. Arguments are handed to cargo-tarpaulin.
set -euo pipefail
cd "$(dirname "$0")/.."

# Built apart, so that nothing else is built anew behind it. The time-out, in seconds, is for a whole test program.
scripts/with-services.sh .tools/bin/cargo-tarpaulin tarpaulin --locked --engine llvm --target-dir target/tarpaulin-build --skip-clean \
  --no-fail-fast --timeout 1800 --include-files 'src/*' --out Html --output-dir target/tarpaulin "$@" -- --test-threads=4
