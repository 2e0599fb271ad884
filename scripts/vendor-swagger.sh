#!/usr/bin/env bash
# Swagger UI's files, from the pinned npm package into assets/swagger, from where they are built into the binary. The package must have the checksum
# below; where it can't be had, what is there is verified and kept. It is packed and not installed: nothing of it runs, and nothing that it depends on comes.
# For another version: change both lines, run with UPDATE=1, look at the page.
set -euo pipefail
cd "$(dirname "$0")/.."

version=5.35.0
package=1b8e891893404ea4c3558b6a87e2a3e494e7eedba41168c2ece5800a391a6ea6
files="swagger-ui-bundle.js swagger-ui-bundle.js.LICENSE.txt swagger-ui.css LICENSE NOTICE"

sums() { if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi; }

work=$(mktemp -d "${TMPDIR:-/tmp}/vendor-swagger.XXXXXX")
trap 'rm -rf "$work"' EXIT

if command -v npm >/dev/null && npm pack --silent --ignore-scripts --pack-destination "$work" "swagger-ui-dist@$version" >/dev/null; then
  archive="$work/swagger-ui-dist-$version.tgz"
  if [ "$(sums "$archive" | cut -d' ' -f1)" != "$package" ]; then
    echo "vendor-swagger.sh: swagger-ui-dist $version has another checksum than this script says; nothing was changed" >&2
    exit 1
  fi
  for file in $files; do
    tar -xzOf "$archive" "package/$file" >"assets/swagger/$file"
  done
  echo "fetched swagger-ui-dist $version"
else
  echo "not fetched: swagger-ui-dist $version (is the network there, and npm?); what is here is kept"
fi

cd assets/swagger
# Unquoted: one word a file.
if [ "${UPDATE:-}" = 1 ]; then sums $files >SHA256SUMS; fi
sums -c --quiet SHA256SUMS
echo "verified $(wc -l <SHA256SUMS | tr -d ' ') files in assets/swagger by SHA256SUMS"
