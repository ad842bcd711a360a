"""Step records, replay and recompute through the command line; the records' format by an independent reading of records/step_records.h."""
import base64
import hashlib
import json
import os
import shutil
import struct

import numpy
import pytest
from safetensors import safe_open

from program import SOURCE, overproof

STEPS, EVERY, BATCH, LENGTH = 18, 4, 4, 64
SMALL = ["--set", f"student.steps={STEPS}", "--set", f"student.digest-every={EVERY}", "--set", "student.keep-every=8",
         "--set", "soft-targets.tokens=1280"]
RECORD = struct.Struct("<5q5d14d32s32s32s32s")
TERMS, WEIGHTS, OPTIMIZER, LINK = slice(10, 24), 25, 26, 27
SEED = "00c0ffee"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replay")
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    overproof("run", SOURCE / "examples/kill-test.ini", "--out", folder / "run", *SMALL, "--only", "int8")
    return folder / "run"


def records(artifact):
    with safe_open(artifact / "steps.safetensors", "numpy") as file:
        steps, metadata = file.get_tensor("steps"), file.metadata()
    assert steps.dtype == numpy.uint8 and steps.shape[1] == 320 == RECORD.size
    return [RECORD.unpack(row.tobytes()) for row in steps], steps, metadata


def digest_of_tensors(items):
    lines = (f"{name} {dtype} {'x'.join(map(str, shape))} {hashlib.sha256(data).hexdigest()}\n" for name, dtype, shape, data in sorted(items))
    return hashlib.sha256("".join(lines).encode()).digest()


def weights(folder):
    with safe_open(folder / "model.safetensors", "numpy") as file:
        return digest_of_tensors([(n, "F32", file.get_tensor(n).shape, file.get_tensor(n).tobytes()) for n in file.keys()])


def test_records_are_what_the_header_says(run):
    rows, raw, metadata = records(run / "student")
    lines = [json.loads(line) for line in (run / "student/steps.jsonl").read_text().splitlines()]
    assert len(rows) == len(lines) == STEPS
    assert metadata["format_version"] == "2" and json.loads(metadata["terms"]) == ["forward-kl", "cross-entropy"]
    bound = {"batch_root": metadata["batch_root"], "digest_every": EVERY, "ranks": int(metadata["ranks"]), "terms": json.loads(metadata["terms"])}
    first = b"overproof step chain v2" + bytes.fromhex(metadata["initial_weights"]) + json.dumps(bound, sort_keys=True, separators=(",", ":")).encode()
    chain = hashlib.sha256(first).digest()
    for step, (row, line) in enumerate(zip(rows, lines)):
        assert row[0] == line["step"] == step and row[1] == step * BATCH
        assert row[2] == line["sequences"] == BATCH
        assert row[3] == line["tokens"] == row[5] == line["weight"] == BATCH * LENGTH and row[4] == (step + 1) * BATCH * LENGTH
        assert list(row[6:10]) == [line[k] for k in ("lr", "loss", "grad_norm", "balance")]
        assert list(row[TERMS]) == [line["terms"]["forward-kl"], line["terms"]["cross-entropy"]] + [0.0] * 12
        digested = (step + 1) % EVERY == 0 or step + 1 == STEPS
        assert (row[WEIGHTS] != bytes(32)) == (row[OPTIMIZER] != bytes(32)) == digested
        chain = hashlib.sha256(chain + raw[step].tobytes()[:288]).digest()
        assert row[LINK] == chain
    assert metadata["chain"] == chain.hex()
    statement = json.loads(base64.b64decode(json.loads((run / "student/claims.jsonl").read_text().splitlines()[0])["payload"]))
    assert chain.hex() in json.dumps(statement), "the end of the chain is signed"
    # Both ends are the weights that were published.
    assert metadata["initial_weights"] == weights(run / "student-init").hex()
    assert rows[-1][WEIGHTS] == weights(run / "student")


def test_kept_states_are_named_after_what_they_hold(run):
    rows, _, _ = records(run / "student")
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    assert kept == {hashlib.sha256(rows[s][WEIGHTS] + rows[s][OPTIMIZER]).hexdigest() + ".safetensors" for s in (7, 15)}
    for step in (7, 15):
        name = hashlib.sha256(rows[step][WEIGHTS] + rows[step][OPTIMIZER]).hexdigest() + ".safetensors"
        with safe_open(run / "checkpoints" / name, "numpy") as file:
            state = [(n, {"float32": "F32", "int64": "I64"}[file.get_tensor(n).dtype.name], file.get_tensor(n).shape, file.get_tensor(n).tobytes())
                     for n in file.keys() if n.endswith((".adam_first", ".adam_second")) or n in ("expert_tokens", "recent_loads", "router_counts", "router_tokens")]
        assert digest_of_tensors(state) == rows[step][OPTIMIZER]
    assert overproof("audit", "verify", run).returncode == 0


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xffffffff, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xffffffff]
        k = [(k[0] + 0x9E3779B9) & 0xffffffff, (k[1] + 0xBB67AE85) & 0xffffffff]
    return c


def draw(total, count, seed, root):
    """Floyd's sampling by Philox, from the header of distill/replay.h and core/rng.h."""
    word = hashlib.sha256(b"overproof replay draw v1" + seed.lower().encode() + bytes.fromhex(root)).digest()[:8]
    key = struct.unpack("<2I", hashlib.sha256(word + b"audit/replay").digest()[:8])
    words = (w for index in range(1000) for w in philox((index, 0, 0, 0), key))
    drawn = set()
    for j in range(total - min(count, total), total):
        n = j + 1
        while True:
            x = next(words) | next(words) << 32
            if x < n * ((2**64 - 1) // n):
                break
        drawn.add(x % n if x % n not in drawn else j)
    return sorted(drawn)


@pytest.mark.parametrize("seed, count", [(SEED, 2), ("ABCDEF", 3), ("1", 1)])
def test_the_draw_follows_from_the_seed(run, seed, count):
    found = json.loads(overproof("audit", "replay", run, "--segments", count, "--seed", seed, "--json").stdout)
    assert found["holds"] and found["mode"] == "bitwise" and found["steps_planned_equal"] == STEPS
    assert found["segments_total"] == 5
    drawn = draw(5, count, seed, found["root"].removeprefix("sha256:"))
    assert [s["segment"] for s in found["segments"] if s["drawn"]] == drawn
    assert [s["segment"] for s in found["segments"]] == sorted({*drawn, 4})  # the last is always made
    for s in found["segments"]:
        assert s["equal"] and s["first_step"] == EVERY * s["segment"] and s["from_step"] in (0, 8, 16) or s["from_step"] == s["first_step"]
    for odds in found["odds"]:
        assert odds["caught_at_least"] == pytest.approx(1 - (1 - odds["forged_fraction"]) ** count)
        assert odds["caught"] >= odds["caught_at_least"] - 1e-12


def test_replay_speaks_of_what_it_did(run):
    text = overproof("audit", "replay", run / "student", "--segments", 99, "--seed", SEED).stdout
    assert "5 of 5 segments drawn" in text and "equal, bitwise" in text and "Not shown" in text
    other = overproof("audit", "replay", run, "--segments", 2, "--seed", SEED, "--threads", 3).stdout
    assert "threads, the recorded number" in other and "NOT" not in other
    assert "seed" in overproof("audit", "replay", run, code=2).stderr
    assert "hex" in overproof("audit", "replay", run, "--seed", "lottery", code=2).stderr
    calibrated = json.loads(overproof("audit", "replay", run, "--artifact", "calibrated", "--seed", SEED, "--json").stdout)
    assert calibrated["holds"] and calibrated["segments_total"] == 1


def test_findings_are_signed(run):
    overproof("audit", "replay", run, "--segments", 1, "--seed", SEED, "--record")
    overproof("audit", "recompute", run / "int8", "--record")
    for name, kind in (("replay-student", "replay"), ("recompute-int8", "recompute")):
        envelope = json.loads((run / "audits" / f"{name}.json").read_text())
        statement = json.loads(base64.b64decode(envelope["payload"]))
        assert statement["predicateType"] == f"urn:overproof:audit:{kind}:v2"
        assert statement["predicate"]["result"]["holds"] is True
        assert statement["subject"][0]["name"] == name.split("-")[1]


def test_recompute_makes_the_run_again(run):
    found = json.loads(overproof("audit", "recompute", run, "--stages", "all", "--file", f"source={SOURCE / 'examples/texts'}", "--json").stdout)
    status = {a["artifact"]: a["status"] for a in found["artifacts"]}
    assert set(status) == {"teacher", "corpus", "statistics", "soft-targets", "student-init", "recovered", "student", "calibrated", "int8"}
    assert set(status.values()) == {"equal"}
    found = json.loads(overproof("audit", "recompute", run, "--json").stdout)
    by_name = {a["artifact"]: a for a in found["artifacts"]}
    assert by_name["corpus"]["status"] == "left" and "--file source=PATH" in by_name["corpus"]["details"][0]
    assert by_name["student"]["status"] == "left" and "audit replay" in by_name["student"]["details"][0]
    assert by_name["int8"]["status"] == by_name["student-init"]["status"] == "equal"


def test_calibrations_keep_states_to_replay_from(run, tmp_path):
    for parent in ("teacher", "corpus", "student"):
        shutil.copytree(run / parent, tmp_path / parent)
    words = ["calibrate", "--student", tmp_path / "student", "--teacher", tmp_path / "teacher", "--corpus", tmp_path / "corpus", "--steps", 6,
             "--held-out-windows", 2, "--digest-every", 1]
    overproof(*words, "--out", tmp_path / "plain")
    assert not (tmp_path / "checkpoints").exists()
    made = json.loads(overproof(*words, "--keep-every", 2, "--out", tmp_path / "kept", "--json").stdout)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2  # after 2 and 4 steps of 6
    assert (tmp_path / "kept/model.safetensors").read_bytes() == (tmp_path / "plain/model.safetensors").read_bytes()
    root = made["root"].removeprefix("sha256:")
    seed, segment = next((f"{n:x}", draw(6, 1, f"{n:x}", root)[0]) for n in range(1000) if draw(6, 1, f"{n:x}", root)[0] >= 4)
    found = json.loads(overproof("audit", "replay", tmp_path, "--artifact", "kept", "--segments", 1, "--seed", seed, "--json").stdout)
    assert found["holds"] and found["segments"][0]["segment"] == segment and found["segments"][0]["from_step"] == 4


def test_kept_states_and_digests_change_no_weight(run, tmp_path):
    words = ["distill", "--student", run / "student-init", "--targets", run / "soft-targets", "--corpus", run / "corpus", "--steps", STEPS]
    overproof(*words, "--digest-every", 0, "--out", tmp_path / "off")
    overproof(*words, "--digest-every", 1, "--keep-every", 1, "--out", tmp_path / "each")
    model = (run / "student/model.safetensors").read_bytes()
    for name in ("off", "each"):
        assert (tmp_path / name / "model.safetensors").read_bytes() == model
        assert (tmp_path / name / "steps.jsonl").read_text() == (run / "student/steps.jsonl").read_text()
    assert not (tmp_path / "off/steps.safetensors").exists()
    assert len(list((tmp_path / "checkpoints").iterdir())) == STEPS - 1
    assert [r[WEIGHTS] for r in records(tmp_path / "each")[0]][3::4] == [r[WEIGHTS] for r in records(run / "student")[0]][3::4]
    answer = overproof("audit", "replay", tmp_path / "off", "--seed", SEED, code=2)
    assert "which is not next to it" in answer.stderr  # its parents


@pytest.mark.parametrize("options", [
    ["--loss", "forward-kl=0.9,cross-entropy=0.1", "--teacher-share", 0.25, "--repetition-penalty", 1.2],
    ["--loss", "reverse-kl=0.5,jensen-shannon:0.2=0.5,total-variation=0", "--teacher-share", 1],
])
def test_replay_repeats_whatever_loss_and_mixture_was_used(run, tmp_path, options):
    for parent in ("teacher", "corpus", "soft-targets", "student-init"):
        shutil.copytree(run / parent, tmp_path / parent)
    words = ["distill", "--student", tmp_path / "student-init", "--targets", tmp_path / "soft-targets", "--corpus", tmp_path / "corpus",
             "--teacher", tmp_path / "teacher", "--steps", 8, "--digest-every", 4]
    overproof(*words, *options, "--out", tmp_path / "mixed")
    found = json.loads(overproof("audit", "replay", tmp_path, "--artifact", "mixed", "--segments", 2, "--seed", SEED, "--json").stdout)
    assert found["holds"] and [s["equal"] for s in found["segments"]] == [True, True]
    asked = json.loads((tmp_path / "mixed/generation_config.json").read_text()).get("repetition_penalty")
    assert asked == (1.2 if "--repetition-penalty" in options else None)
    terms = json.loads(records(tmp_path / "mixed")[2]["terms"])
    assert terms == [name for name in ("forward-kl", "cross-entropy", "reverse-kl", "jensen-shannon", "total-variation") if name in options[1]]
    lineage = json.loads(base64.b64decode(json.loads((tmp_path / "mixed/claims.jsonl").read_text().splitlines()[0])["payload"]))
    assert '"teacher"' in json.dumps(lineage)
    # Sampled soft targets alone are no targets for the second.
    if "reverse-kl" in options[1]:
        words = [w for w in words if w not in ("--teacher", tmp_path / "teacher")]
        assert "sampled" in overproof(*words, "--loss", options[1], "--out", tmp_path / "refused", code=2).stderr
