#!/usr/bin/env bash
# Configures and builds a preset: tools/build.sh PRESET [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:?usage: tools/build.sh PRESET [TARGET...]}
shift
cache=${OVERPROOF_CACHE:-$PWD/.cache}
arguments=()
# The interoperability tests exist where their peers do.
if [ -f "$cache/the peers that the tests compare with.stamp" ]; then arguments+=("-DOVERPROOF_TEST_PYTHON=$cache/venv/bin/python"); fi
log="$cache/configure-$preset.log"
cmake --preset "$preset" "${arguments[@]}" >"$log" 2>&1 || { tail -n 30 "$log" >&2; exit 1; }
cmake --build --preset "$preset" ${1:+--target "$@"}
