"""`audit compare` against independent implementations: order, keys and green lists by Python's hashlib, models by transformers, statistics by
scipy. And what it must find and must not: a student and what is made of it, strangers, a watermark."""
import hashlib
import hmac
import json
import math
import os
import random
import shutil
import struct

import numpy
import pytest

from program import overproof

SHAPE = ["--layers", 2, "--hidden-size", 64, "--intermediate-size", 128]
LENGTH, WINDOWS = 32, 3000
GREEN = 0.25


def compare(a, b, *more):
    found = json.loads(overproof("audit", "compare", a, b, "--json", *more).stdout)
    return {test["name"]: test for test in found["tests"]}


def write_texts(folder, total):
    generator = random.Random(4)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = ["".join(generator.choice(syllables) for _ in range(generator.randint(1, 4))) for _ in range(1500)]
    weights = [1 / (i + 3) for i in range(len(words))]
    folder.mkdir()
    records = []
    while total > 0:
        text = "\n".join(" ".join(generator.choices(words, weights, k=generator.randint(4, 12))) + "." for _ in range(40)) + "\n"
        name = f"{len(records):04}.txt"
        (folder / name).write_text(text)
        records.append({"name": name, "license": "CC0-1.0", "source": "made-up"})
        total -= len(text)
    (folder / "documents.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def distill(student, targets, corpus, out, *more):
    overproof("distill", "--student", student, "--targets", targets, "--corpus", corpus, "--out", out, "--train", "all", "--learning-rate", 0.008,
              "--batch-size", 2, "--micro-batch", 2, "--checkpoint-every", 0, *more)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A dense student of weights of its own, taught once over every window in the committed order; the teacher, what is made of the
    student, and a stranger that saw the same lessons in another order."""
    base = tmp_path_factory.mktemp("evidence")
    os.environ["OVERPROOF_KEY"] = str(base / "key.pem")
    run = base / "run"
    write_texts(base / "texts", WINDOWS * LENGTH * 1.25)
    overproof("tiny-teacher", "--seed", 1, *SHAPE, "--out", run / "teacher")
    overproof("corpus", "--source", base / "texts", "--tokenizer", run / "teacher", "--window-length", LENGTH, "--held-out", 0.15, "--out", run / "corpus")
    overproof("teach", "--teacher", run / "teacher", "--corpus", run / "corpus", "--tokens", WINDOWS * LENGTH, "--out", run / "soft-targets")
    overproof("tiny-teacher", "--seed", 2, *SHAPE, "--out", run / "student-init")
    distill(run / "student-init", run / "soft-targets", run / "corpus", run / "student", "--schedule", "constant")
    overproof("observe", "--teacher", run / "student", "--corpus", run / "corpus", "--tokens", 1024, "--out", run / "statistics")
    overproof("prune-neurons", "--teacher", run / "student", "--statistics", run / "statistics", "--keep", 0.75, "--out", run / "pruned")
    overproof("quantize", "--model", run / "student", "--out", run / "int8")
    other = base / "other"
    overproof("teach", "--teacher", run / "teacher", "--corpus", run / "corpus", "--tokens", WINDOWS * LENGTH, "--seed", 9, "--out", other / "soft-targets")
    overproof("tiny-teacher", "--seed", 3, *SHAPE, "--out", other / "init")
    distill(other / "init", other / "soft-targets", run / "corpus", other / "stranger", "--schedule", "constant")
    return run


# --- independent implementations ---

def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def permutation(key, tweak, n):
    seed = b"overproof permutation v1" + key + struct.pack("<Q", tweak)
    keys = struct.unpack("<8Q", b"".join(hashlib.sha256(seed + struct.pack("<Q", h)).digest() for h in (0, 1)))
    half = ((n - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1

    def forward(x):
        while True:
            left, right = x >> half, x & mask
            for r in range(8):
                w = philox([right & 0xFFFFFFFF, right >> 32, r, 0], [keys[r] & 0xFFFFFFFF, keys[r] >> 32])
                left, right = right, left ^ ((w[1] << 32 | w[0]) & mask)
            x = left << half | right
            if x < n:
                return x
    return [forward(i) for i in range(n)]


def transformers_model(folder):
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def log_probabilities(model, ids):
    import torch
    with torch.no_grad():
        return torch.log_softmax(torch.cat([model(part).logits for part in torch.tensor(ids).split(256)]).double(), -1)


def test_the_order_test_is_what_scipy_and_transformers_say(run):
    import torch
    from safetensors import safe_open
    from scipy import stats
    found = compare(run, run / "student", "--only", "order", "--windows", 1000000, "--draws", 2000)["committed-order"]
    assert found["ran"] and found["details"]["epochs"] == 1.0

    with safe_open(run / "soft-targets/targets.safetensors", "numpy") as file:
        key = bytes.fromhex(file.metadata()["order_key"])
    with safe_open(run / "corpus/tokens.safetensors", "numpy") as file:
        stream = file.get_tensor("train").astype(numpy.int64)
    windows = (len(stream) - 1) // LENGTH
    window_of_block, block_at = permutation(key, 0, windows), permutation(key, 1, WINDOWS)
    order = [window_of_block[b] for b in block_at]  # the windows, first to last
    ids = numpy.stack([stream[w * LENGTH:w * LENGTH + LENGTH + 1] for w in order])
    inputs, labels = ids[:, :-1], torch.tensor(ids[:, 1:, None])
    log_p, log_q, log_r = (log_probabilities(transformers_model(run / name), inputs) for name in ("teacher", "student", "student-init"))
    kl = lambda other: (log_p.exp() * (log_p - other)).sum(-1).mean(1).numpy()
    loss = lambda log: -log.gather(2, labels)[..., 0].mean(1).numpy()
    known = numpy.column_stack([numpy.ones(WINDOWS), loss(log_r), kl(log_r), loss(log_p), -(log_p.exp() * log_p).sum(-1).mean(1).numpy()])
    rest = kl(log_q) - known @ numpy.linalg.lstsq(known, kl(log_q), rcond=None)[0]
    rho, p = stats.spearmanr(numpy.arange(WINDOWS), rest, alternative="less")
    assert found["details"]["windows"] == WINDOWS
    assert found["value"] == pytest.approx(rho, abs=2e-4)
    assert found["log10_p"] == pytest.approx(math.log10(p), abs=0.05)


@pytest.mark.parametrize("name, bound", [("student", 1e-6), ("int8", 1e-6), ("pruned", 1e-4)])  # a quarter of the neurons took some of it along
def test_what_comes_from_a_run_is_found_by_its_order(run, name, bound):
    found = compare(run, run / name, "--only", "order", "--windows", WINDOWS, "--draws", 2000)["committed-order"]
    assert found["p_value"] < bound and found["value"] < 0
    assert found["details"]["monte_carlo_p"] == pytest.approx(1 / 2001)


@pytest.mark.parametrize("name", ["../other/stranger", "teacher", "student-init"])
def test_what_does_not_come_from_the_run_is_not(run, name):
    assert compare(run, run / name, "--only", "order", "--draws", 0)["committed-order"]["p_value"] > 1e-3


def test_a_teacher_alone_or_a_broken_run_has_no_order(run, tmp_path):
    found = compare(run / "teacher", run / "student", "--weight-permutations", 9)
    assert not found["committed-order"]["ran"] and "no distillation" in found["committed-order"]["not_run"]
    assert not found["agreement"]["ran"] and not found["radioactivity"]["ran"]
    import shutil
    shutil.copytree(run, tmp_path / "broken")
    file = tmp_path / "broken/soft-targets/targets.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    found = compare(tmp_path / "broken/student", run / "student", "--only", "order")["committed-order"]
    assert not found["ran"] and "not the signed one" in found["not_run"]


def ffn(folder, layer):
    from safetensors.numpy import load_file
    tensors = load_file(folder / "model.safetensors")
    both = [tensors[f"model.layers.{layer}.mlp.{part}.weight"].astype(float) for part in ("gate_proj", "up_proj")]
    return [m / numpy.linalg.norm(m, axis=1, keepdims=True) for m in both]


@pytest.mark.parametrize("a, b", [("student", "pruned"), ("student-init", "student"), ("teacher", "../other/stranger")])
def test_weight_tests_are_what_scipy_says(run, a, b):
    from scipy import optimize, stats
    found = compare(run / a, run / b, "--only", "weights", "--weight-permutations", 99)
    order, matched = [], []
    for layer in range(2):
        (gate_a, up_a), (gate_b, up_b) = ffn(run / a, layer), ffn(run / b, layer)
        if len(gate_b) < len(gate_a):  # rows are the fewer
            gate_a, up_a, gate_b, up_b = gate_b, up_b, gate_a, up_a
        match = lambda s: optimize.linear_sum_assignment(s, maximize=True)[1]
        both, gate, up = match(gate_a @ gate_b.T + up_a @ up_b.T), match(gate_a @ gate_b.T), match(up_a @ up_b.T)
        order.append(stats.spearmanr(numpy.arange(len(both)), both, alternative="greater"))
        matched.append(stats.spearmanr(gate, up, alternative="greater"))
    assert found["weights-order"]["value"] == pytest.approx(numpy.mean([r.statistic for r in order]), abs=1e-9)
    assert found["weights-matched"]["value"] == pytest.approx(numpy.mean([r.statistic for r in matched]), abs=1e-9)
    if b == "../other/stranger":
        combined = lambda rows: stats.combine_pvalues([r.pvalue for r in rows], "fisher").pvalue
        assert found["weights-order"]["p_value"] == pytest.approx(combined(order), rel=0.05)
        assert found["weights-matched"]["p_value"] == pytest.approx(combined(matched), rel=0.05)
        assert all(test["p_value"] > 1e-3 for test in found.values())
    else:
        assert found["weights-order"]["log10_p"] < -50 and found["weights-matched"]["log10_p"] < -50
        assert found["weights-permuted"]["p_value"] == pytest.approx(0.01)


def test_a_student_of_weights_of_its_own_passes_the_weight_tests(run):
    """They show where weights came from, not which teacher was used: the text states that."""
    found = compare(run / "teacher", run / "student", "--only", "weights")
    assert all(test["p_value"] > 1e-3 for test in found.values())
    assert all("taught" in test["cannot_show"] for test in found.values())


def test_agreement_is_judged_against_controls(run):
    from scipy import stats
    controls = [run.parent / "control" / str(seed) for seed in (31, 32, 33)]
    for seed, control in zip((31, 32, 33), controls):
        overproof("tiny-teacher", "--seed", seed, *SHAPE, "--out", control)
    found = compare(run / "teacher", run / "student", "--only", "agreement", "--corpus", run / "corpus", "--controls", ",".join(map(str, controls)))["agreement"]
    assert found["p_value"] < 1e-6 and found["details"]["rank_p"] == 0.25
    for control in found["details"]["controls"]:
        n = control["only_a"] + control["only_control"]
        assert 10 ** control["log10_p"] == pytest.approx(stats.binomtest(control["only_a"], n, alternative="greater").pvalue, rel=1e-6)
    assert found["p_value"] >= max(10 ** c["log10_p"] for c in found["details"]["controls"]) * (1 - 1e-9)
    # An unrelated model instead of A: no closer to the student than the real teacher, who is now a control.
    swapped = compare(controls[0], run / "student", "--only", "agreement", "--corpus", run / "corpus", "--controls", f"{controls[1]},{run / 'teacher'}")
    assert swapped["agreement"]["p_value"] > 0.5


def green(secret, context, token):
    message = b"overproof watermark v1" + b"".join(struct.pack("<i", t) for t in context)
    words = struct.unpack("<8I", hmac.new(secret, message, hashlib.sha256).digest())
    return philox([token // 4, 0, words[2], words[3]], words[:2])[token % 4] < round(GREEN * 2**32)


def write_key(file, secret):
    """A key that is the same in every run of these tests, as what they find depends on it."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"format": "overproof-watermark-1", "secret": hashlib.sha256(secret).hexdigest(), "green_fraction": GREEN, "context": 1}))
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def sampled(run):
    work = run.parent / "sampled"
    key = write_key(work / "key.json", b"a secret")
    overproof("sample", "--teacher", run / "teacher", "--count", 160, "--max-tokens", 200, "--watermark-key", key, "--out", work / "texts")
    overproof("corpus", "--source", work / "texts", "--tokenizer", run / "teacher", "--window-length", LENGTH, "--held-out", 0, "--out", work / "corpus")
    overproof("teach", "--teacher", run / "teacher", "--corpus", work / "corpus", "--tokens", 800 * LENGTH, "--draws", 1, "--out", work / "soft-targets")
    distill(run / "student-init", work / "soft-targets", work / "corpus", work / "student", "--ce-weight", 1, "--steps", 1000)
    return work


def test_sampled_documents_are_a_source_with_parents(run, sampled):
    records = [json.loads(line) for line in (sampled / "texts/documents.jsonl").read_text().splitlines()]
    facts = json.loads((sampled / "texts/sampling.json").read_text())
    assert len(records) == facts["documents"] > 100
    root = json.loads(overproof("show", run / "teacher", "--json").stdout)["root"]
    assert all(r["parents"][0]["digest"] == root and root in r["source"] for r in records)
    secret = bytes.fromhex(json.loads((sampled / "key.json").read_text())["secret"])
    commitment = hashlib.sha256(b"overproof watermark key v1" + struct.pack("<II", round(GREEN * 2**32), 1) + secret).hexdigest()
    assert facts["watermark"]["commitment"] == f"sha256:{commitment}" and secret.hex() not in json.dumps(facts)
    hits, count = 0, 0
    for line in (sampled / "texts/tokens.jsonl").read_text().splitlines():
        document = json.loads(line)
        ids = document["before"] + document["tokens"]
        text = (sampled / "texts" / document["name"]).read_bytes()
        assert bytes(document["tokens"]) == text  # single bytes are this tokenizer's tokens
        hits += sum(green(secret, ids[i - 1:i], ids[i]) for i in range(1, len(ids)))
        count += len(ids) - 1
        if count > 5000:
            break
    assert hits / count > GREEN + 0.15
    shown = json.loads(overproof("show", sampled / "texts", "--json").stdout)
    assert secret.hex() not in json.dumps(shown)


def test_generate_plants_the_watermark_too(run, sampled):
    words = ["generate", run / "teacher", "--prompt", "Bo", "--temperature", 1, "--max-tokens", 200, "--json"]
    secret = bytes.fromhex(json.loads((sampled / "key.json").read_text())["secret"])

    def share(*more):
        hits, count = 0, 0
        for seed in range(4):  # an end token may end one early
            ids = json.loads(overproof(*words, "--seed", seed, *more).stdout)["ids"]
            hits += sum(green(secret, ids[i - 1:i], ids[i]) for i in range(1, len(ids)))
            count += len(ids) - 1
        assert count > 100
        return hits / count

    assert share("--watermark-key", sampled / "key.json", "--watermark-strength", 4) > 0.5
    assert share() < 0.4
    overproof(*words, "--watermark-key", sampled / "missing.json", code=5)


def test_radioactivity_is_what_transformers_and_scipy_say(run, sampled):
    import torch
    from scipy import stats
    words = ["--only", "radioactivity", "--watermark-key", sampled / "key.json", "--watermark-text", sampled / "texts"]
    found = compare(run / "teacher", sampled / "student", *words)["radioactivity"]
    secret = bytes.fromhex(json.loads((sampled / "key.json").read_text())["secret"])
    model = transformers_model(sampled / "student")
    seen, scored, hits = set(), 0, 0
    for line in (sampled / "texts/tokens.jsonl").read_text().splitlines():
        document = json.loads(line)
        seen.add(document["before"][-1])
        with torch.no_grad():
            best = model(torch.tensor([document["tokens"]])).logits[0].argmax(-1).tolist()
        for context, token in zip(document["tokens"], best):
            if context not in seen:
                seen.add(context)
                scored += 1
                hits += green(secret, [context], token)
    assert found["details"]["scored"] == scored
    assert abs(found["details"]["green"] - hits) <= 2  # two logits may be equal but for the last bit
    assert found["p_value"] == pytest.approx(stats.binom.sf(found["details"]["green"] - 1, scored, GREEN), rel=1e-9)
    assert found["details"]["text_log10_p"] < -10  # the text itself is watermarked


def test_a_student_of_watermarked_text_is_radioactive_and_others_are_not(run, sampled):
    words = ["--only", "radioactivity", "--watermark-key", sampled / "key.json", "--watermark-text", sampled / "texts"]
    assert compare(run / "teacher", sampled / "student", *words)["radioactivity"]["p_value"] < 1e-6
    overproof("quantize", "--model", sampled / "student", "--out", sampled / "int8")
    assert compare(run / "teacher", sampled / "int8", *words)["radioactivity"]["p_value"] < 1e-6
    for stranger in ("student", "student-init", "../other/stranger"):
        assert compare(run / "teacher", run / stranger, *words)["radioactivity"]["p_value"] > 1e-3
    # Nor is any text to another key.
    write_key(sampled / "other.json", b"another")
    words[words.index("--watermark-key") + 1] = sampled / "other.json"
    assert compare(run / "teacher", sampled / "student", *words)["radioactivity"]["p_value"] > 1e-3


def test_findings_are_recorded_signed_and_never_a_verdict(run):
    answer = overproof("audit", "compare", run, run / "int8", "--weight-permutations", 9, "--draws", 100, "--record")
    assert "neither one test nor all together are a verdict" in answer.stdout and "audits/compare-int8.json" in answer.stdout
    import base64
    envelope = json.loads((run / "audits/compare-int8.json").read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["predicateType"] == "urn:overproof:audit:compare:v2"
    assert [s["name"] for s in statement["subject"]] == ["student", "int8"]
    text = json.dumps(statement)
    assert "verdict" in text and str(run) not in text
    assert overproof("audit", "verify", run).returncode == 0


def test_a_record_belongs_to_a_run_and_the_signer_can_be_named(run, tmp_path):
    quick = ["--only", "weights", "--weight-permutations", 0]
    shutil.copytree(run / "int8", tmp_path / "lone")
    for name in ("claims.jsonl", "model.sig"):
        (tmp_path / "lone" / name).unlink()
    # A is a lone model: the record belongs to the run of B, named after A; nothing is written next to A.
    overproof("audit", "compare", tmp_path / "lone", run / "int8", *quick, "--record")
    assert (run / "audits/compare-lone.json").is_file() and not (tmp_path / "audits").exists() and not (tmp_path / "lone/audits").exists()
    answer = overproof("audit", "compare", tmp_path / "lone", tmp_path / "lone", *quick, "--record", code=2)
    assert "is no run and no artifact" in answer.stderr
    public = tmp_path / "signer.pub"
    public.write_text(overproof("key", "show", "--pem").stdout)
    overproof("audit", "compare", run, run / "int8", *quick, "--public-key", public)
    overproof("key", "new", "--out", tmp_path / "other.pem")
    (tmp_path / "other.pub").write_text(overproof("key", "show", "--key", tmp_path / "other.pem", "--pem").stdout)
    for a in (run, run / "student", tmp_path / "lone"):
        overproof("audit", "compare", a, run / "int8", *quick, "--public-key", tmp_path / "other.pub", code=4)


def test_mistakes_are_named(run, tmp_path):
    assert "did you mean 'order'" in overproof("audit", "compare", run, run / "int8", "--only", "ordr", code=2).stderr
    assert "holds no model" in overproof("audit", "compare", run, run / "corpus", code=2).stderr
    overproof("audit", "compare", tmp_path / "nothing", run / "int8", code=5)
    (tmp_path / "key.json").write_text("{}")
    overproof("audit", "compare", run, run / "int8", "--only", "radioactivity", "--watermark-key", tmp_path / "key.json", code=4)  # others may read it
    (tmp_path / "key.json").chmod(0o600)
    answer = overproof("audit", "compare", run, run / "int8", "--only", "radioactivity", "--watermark-key", tmp_path / "key.json", code=3)
    assert "key.json: 'format' is missing" in answer.stderr
