#!/usr/bin/env bash
# Makes gen/ from the proto, by buf and the plugins that go.mod names.
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/tools.sh buf
.tools/npm/node_modules/.bin/buf generate --template examples/go/buf.gen.yaml
