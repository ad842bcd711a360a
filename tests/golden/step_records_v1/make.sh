#!/usr/bin/env bash
# Makes this folder's files with overproof at commit 46399e7, the last one that writes step records of version 1:
#   git worktree add ../v1 46399e7 && (cd ../v1 && tools/setup.sh build && tools/build.sh release overproof)
#   tests/golden/step_records_v1/make.sh ../v1
set -euo pipefail
old=$(realpath "${1:?usage: make.sh FOLDER_OF_46399e7}")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OVERPROOF_KEY="$work/key.pem"
cd "$old"
build/release/bin/overproof run examples/kill-test.ini --out "$work/run" --only student --threads 1 --quiet \
  --set student.steps=10 --set student.digest-every=4 --set student.warmup=2 --set student.ce-weight=0.1 --set soft-targets.tokens=1280
cp "$work/run/student/steps.safetensors" "$work/run/student/steps.jsonl" "$here"
python3 - "$work/run/student" "$here/expected.json" <<'PYTHON'
import base64, hashlib, json, struct, sys
folder, out = sys.argv[1:]
statement = json.loads(base64.b64decode(json.loads(open(f"{folder}/claims.jsonl").readline())["payload"]))
metrics = next(b for b in statement["predicate"]["runDetails"]["byproducts"] if b["name"] == "metrics")["annotations"]
data = open(f"{folder}/steps.safetensors", "rb").read()
size = struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8:8 + size])
begin, end = header["steps"]["data_offsets"]
records = data[8 + size + begin:8 + size + end]
initial = header["__metadata__"]["initial_weights"]
chain = hashlib.sha256(b"overproof step chain v1" + bytes.fromhex(initial)).digest()
for at in range(0, len(records), 256):
    chain = hashlib.sha256(chain + records[at:at + 224]).digest()
    assert chain == records[at + 224:at + 256]
assert chain.hex() == metrics["step_chain"]
json.dump({"step_chain": metrics["step_chain"], "initial_weights": initial, "steps": metrics["steps"]}, open(out, "w"), indent=1)
PYTHON
(cd "$here" && sha256sum expected.json steps.jsonl steps.safetensors > SHA256SUMS)
