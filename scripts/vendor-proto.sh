#!/usr/bin/env bash
# Third-party protos, from their pinned origins into proto/third_party. What comes must have the checksums in SHA256SUMS there; where an
# origin can't be reached, what is there is verified and kept. For another version: change it here, run with UPDATE=1, look at the difference.
set -euo pipefail
cd "$(dirname "$0")/.."

googleapis=1.76.0      # PyPI: googleapis-common-protos
protovalidate=0.6.0    # the crate prost-protovalidate-types

sums() { if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi; }

work=$(mktemp -d "${TMPDIR:-/tmp}/vendor-proto.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/new"

# A wheel is a zip; the protos lie in it as they are imported.
from_pypi() {
  command -v python3 >/dev/null || return 1
  python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: -d "$work/wheel" "googleapis-common-protos==$googleapis" >&2 || return 1
  python3 - "$work/new" "$work"/wheel/*.whl google/api/annotations.proto google/api/http.proto google/rpc/status.proto <<'PY'
import sys, zipfile
into, wheel, *names = sys.argv[1:]
for name in names:
    zipfile.ZipFile(wheel).extract(name, into)
PY
}

# Cargo has no command for one crate's files: a package that needs it is vendored. Nothing is built.
from_crates() {
  command -v cargo >/dev/null || return 1
  mkdir -p "$work/package/src" "$work/new/buf/validate"
  printf '[package]\nname = "vendor"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\nprost-protovalidate-types = "=%s"\n' "$protovalidate" >"$work/package/Cargo.toml"
  : >"$work/package/src/lib.rs"
  cargo vendor -q --manifest-path "$work/package/Cargo.toml" "$work/vendor" >/dev/null 2>"$work/cargo.log" || { tail -n 3 "$work/cargo.log" >&2; return 1; }
  cp "$(find "$work/vendor/prost-protovalidate-types" -path '*buf/validate/validate.proto' | head -n 1)" "$work/new/buf/validate/validate.proto"
}

fetched() {
  if "$2"; then echo "fetched $1"; else echo "not fetched: $1 (is the network there, and $3?); what is here is kept"; fi
}
fetched "googleapis-common-protos $googleapis" from_pypi "Python 3 with pip"
fetched "prost-protovalidate-types $protovalidate" from_crates "cargo"

while IFS= read -r file; do
  file=${file#"$work/new/"}
  if ! cmp -s "$work/new/$file" "proto/third_party/$file"; then
    if [ "${UPDATE:-}" = 1 ]; then
      mkdir -p "proto/third_party/$(dirname "$file")"
      # Not the mode that it has in its package.
      cat "$work/new/$file" >"proto/third_party/$file"
      echo "changed $file"
    else
      want=$(grep " \./$file\$" proto/third_party/SHA256SUMS | cut -d' ' -f1)
      if [ "$(sums "$work/new/$file" | cut -d' ' -f1)" != "$want" ]; then
        echo "vendor-proto.sh: $file of the pinned version has another checksum than SHA256SUMS says; nothing was changed" >&2
        exit 1
      fi
      mkdir -p "proto/third_party/$(dirname "$file")"
      cat "$work/new/$file" >"proto/third_party/$file"
      echo "restored $file"
    fi
  fi
done < <(find "$work/new" -type f)

cd proto/third_party
if [ "${UPDATE:-}" = 1 ]; then
  # shellcheck disable=SC2046 # names without blanks
  sums $(find . -name '*.proto' | LC_ALL=C sort) >SHA256SUMS
fi
sums -c --quiet SHA256SUMS
echo "verified $(wc -l <SHA256SUMS | tr -d ' ') files in proto/third_party by SHA256SUMS"
