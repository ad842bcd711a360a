"""calibrate's ways to choose how many experts a token uses, on a tiny student: by KL, by a measured speed, by number; its curve; experts with few tokens; and a
student in 8 bits."""
import json
import os
import xml.etree.ElementTree as xml

import pytest

from program import SOURCE, overproof


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate") / "run"
    os.environ["OVERPROOF_KEY"] = str(folder.parent / "key.pem")
    overproof("tiny-teacher", "--seed", 1, "--out", folder / "teacher")
    overproof("corpus", "--source", SOURCE / "examples/texts", "--tokenizer", folder / "teacher", "--window-length", 64, "--held-out", 0.25, "--out", folder / "corpus")
    overproof("observe", "--teacher", folder / "teacher", "--corpus", folder / "corpus", "--out", folder / "statistics")
    overproof("carve", "--teacher", folder / "teacher", "--statistics", folder / "statistics", "--out", folder / "student")
    overproof("quantize", folder / "student", folder / "int8")
    return folder


def calibrate(run, out, *words, student="student", code=0):
    done = overproof("calibrate", "--student", run / student, "--teacher", run / "teacher", "--corpus", run / "corpus", "--held-out-windows", 2,
                     *(() if "--steps" in words else ("--steps", 0)), *words, "--out", run / out, "--json", code=code)
    return json.loads(done.stdout.splitlines()[-1])["metrics"] if code == 0 else done.stderr


def curve_of(run, out):
    return json.loads((run / out / "curve.json").read_text())


def test_the_curve_has_every_number_of_experts_and_what_each_gives(run):
    told = calibrate(run, "curved", "--curve", "--target-activation", 0.5)
    curve = curve_of(run, "curved")
    assert told["curve"] == curve
    points = curve["points"]
    experts = json.loads((run / "student/config.json").read_text())["n_routed_experts"]
    assert [p["top_k"] for p in points] == list(range(1, experts + 1))
    assert points[-1]["activation"] == 1 and points[-1]["kl"] < points[0]["kl"]
    assert curve["chosen"] == told["top_k"]
    for k in (1, experts // 2):  # each point is what calibrate measures with this number
        alone = calibrate(run, f"k{k}", "--top-k", k)
        assert alone["top_k"] == k and alone["kl_before"] == points[k - 1]["kl"] and alone["ffn_activation"] == points[k - 1]["activation"]
        assert json.loads((run / f"k{k}/config.json").read_text())["num_experts_per_tok"] == k
    x0, x1, y0, y1 = points[0]["activation"], points[-1]["activation"], points[0]["kl"], points[-1]["kl"]
    below = [1 - (p["activation"] - x0) / (x1 - x0) - (p["kl"] - y1) / (y0 - y1) for p in points]
    best = max(range(len(points)), key=lambda i: below[i])
    assert curve["knee"] == (points[best]["top_k"] if below[best] > 1e-9 else None)
    drawing = xml.fromstring((run / "curved/curve.svg").read_text())
    assert drawing.tag.endswith("svg") and len(drawing.findall("{*}circle")) == experts
    overproof("audit", "verify", run / "curved")


def test_a_target_kl_gives_the_least_number_that_holds_it(run):
    calibrate(run, "curved", "--curve", "--target-activation", 0.5)
    points = curve_of(run, "curved")["points"]
    target = points[len(points) // 2]["kl"]
    chosen = calibrate(run, "by-kl", "--target-kl", target)
    assert chosen["top_k"] == next(p["top_k"] for p in points if p["kl"] <= target)
    assert chosen["kl_before"] <= target
    overproof("audit", "recompute", run / "by-kl")
    assert "target-kl" in calibrate(run, "both", "--target-kl", 1, "--target-speed", 1, code=2)
    # A student that has lost something holds no tiny KL.
    assert "no number of experts holds" in calibrate(run, "impossible", "--target-kl", 1e-12, student="int8", code=6)


def test_a_target_speed_is_measured_and_an_auditor_takes_the_choice(run):
    experts = json.loads((run / "student/config.json").read_text())["n_routed_experts"]
    assert calibrate(run, "slow", "--target-speed", 0.001)["top_k"] == experts
    assert "less than option 'target-speed'" in calibrate(run, "fast", "--target-speed", 1e12, code=6)
    overproof("audit", "recompute", run / "slow", "--stages", "calibrate")
    metrics = calibrate(run, "tuned", "--target-speed", 0.001, "--steps", 2, "--batch-size", 2)
    assert metrics["top_k"] == experts
    overproof("audit", "replay", run, "--artifact", "tuned", "--seed", "5f2c")
    assert "speed" not in json.dumps(metrics)
    assert "top-k" in calibrate(run, "many", "--top-k", experts + 1, code=2)


def test_experts_with_few_tokens_are_named(run):
    every = calibrate(run, "enough", "--top-k", 2, "--steps", 2, "--batch-size", 2, "--min-tokens-per-expert", 1)
    few = calibrate(run, "few", "--top-k", 2, "--steps", 2, "--batch-size", 2, "--min-tokens-per-expert", 10**6)
    config = json.loads((run / "student/config.json").read_text())
    layers, experts = config["num_hidden_layers"], config["n_routed_experts"]
    assert len(few["experts_below_minimum"]) == layers * experts
    assert sum(e["tokens"] for e in few["experts_below_minimum"]) == layers * 2 * few["tokens"]
    below = {(e["layer"], e["expert"]) for e in few["experts_below_minimum"] if e["tokens"] < 1}
    assert {(e["layer"], e["expert"]) for e in every["experts_below_minimum"]} == below
    assert "experts_below_minimum" not in calibrate(run, "unchecked", "--top-k", 2)
    untuned = calibrate(run, "untuned", "--top-k", 2, "--min-tokens-per-expert", 10**6)["experts_below_minimum"]
    assert sum(e["tokens"] for e in untuned) == layers * 2 * 2 * 64  # of two held-out windows


def test_a_student_in_8_bits_is_compared_with_the_model_before(run):
    plain = calibrate(run, "itself", "--original", run / "student")
    assert plain["original_overlap"] == 1 and plain["original_kl"] == plain["kl_before"]
    rounded = calibrate(run, "from-int8", "--original", run / "student", "--steps", 2, "--batch-size", 2, student="int8")
    assert 0.5 < rounded["original_overlap_before"] <= 1 and 0 < rounded["original_overlap"] <= 1
    overproof("audit", "verify", run)
