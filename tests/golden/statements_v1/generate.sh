#!/usr/bin/env bash
# What overproof 0.1 signed: statements, audit records, proofs and a key rotation of format 1.
#
#   tests/golden/statements_v1/generate.sh OVERPROOF
#
# OVERPROOF is the program built from commit 46399e7, the last one that wrote format 1. The recipe and the texts are of that commit,
# too. Keys and ECDSA signatures are random, so another run of this script writes other bytes with the same content. Only signatures
# are kept, and the files of the corpus: enough to check every signature, every root and every proof.
set -euo pipefail
overproof=$(realpath "${1:?usage: generate.sh OVERPROOF}")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
git -C "$here/../../.." archive 46399e7 examples | tar -x
# Two sources, so that router counts tell them apart.
sed -i '1,4s/"source": *"[^"]*"/"source": "notes"/' examples/texts/documents.jsonl

export OVERPROOF_KEY=$work/maker.pem
quiet=(--quiet --threads 1)
"$overproof" run examples/kill-test.ini --out run --set student.keep-every=100 "${quiet[@]}"
"$overproof" index --corpus run/corpus --out run/index "${quiet[@]}"
"$overproof" prune --teacher run/teacher --statistics run/statistics --out run/pruned "${quiet[@]}"
"$overproof" prune --student run/calibrated --drop-source notes --threshold 0.5 --uneven rank --out run/dropped "${quiet[@]}"
"$overproof" export --type f32 run/student-init run/gguf --acknowledge unspecified "${quiet[@]}"
"$overproof" import --path run/gguf --license Apache-2.0 --out run/imported "${quiet[@]}"

"$overproof" key new --out auditor.pem >/dev/null
OVERPROOF_KEY=auditor.pem "$overproof" audit replay run --artifact student --segments 2 --seed c0ffee --record "${quiet[@]}"
OVERPROOF_KEY=auditor.pem "$overproof" audit rows run/soft-targets --rows 8 --seed 5 --record "${quiet[@]}"
OVERPROOF_KEY=auditor.pem "$overproof" audit recompute run --record "${quiet[@]}"
"$overproof" audit checkpoint run --name example.com/corpora "${quiet[@]}"
"$overproof" audit prove run --document bread.txt --out presence.json "${quiet[@]}"
"$overproof" audit prove run --document examples/kill-test.ini --out absence.json "${quiet[@]}"
"$overproof" audit prove run --older run/audits/corpus-documents.checkpoint --out consistency.json "${quiet[@]}"
"$overproof" key new --out next.pem >/dev/null
"$overproof" key rotate --to next.pem --out rotation.json >/dev/null

find "$here" -mindepth 1 -not -name generate.sh -not -name README.md -delete
for artifact in run/*/claims.jsonl; do
  folder=$(dirname "$artifact")
  mkdir -p "$here/$folder"
  cp "$folder/claims.jsonl" "$folder/model.sig" "$here/$folder/"
done
cp -r run/corpus/. "$here/run/corpus/"
mkdir -p "$here/run/audits"
cp run/audits/* "$here/run/audits/"
cp presence.json absence.json consistency.json rotation.json "$here/"
"$overproof" key show --pem >"$here/maker.pub"
"$overproof" key show --key auditor.pem --pem >"$here/auditor.pub"
cp maker.pem.note.pub "$here/maker.note.pub"
