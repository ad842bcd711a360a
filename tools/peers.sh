#!/usr/bin/env bash
# Installs the trainers that benchmarks/distillation.py compares with into $OVERPROOF_CACHE/peers (default: .cache/peers), next to the environment that
# `tools/setup.sh test` makes, which has PyTorch and transformers. DistillKit is on no registry: `git clone` arcee-ai/DistillKit and give the
# folder to the benchmark by --distillkit.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${OVERPROOF_CACHE:-$PWD/.cache}
rm -rf "$cache/peers"
"$cache/venv/bin/pip" install --quiet --disable-pip-version-check --no-input --no-deps --require-hashes --only-binary :all: --target "$cache/peers" -r tools/requirements-peers.txt
echo "$cache/peers"
