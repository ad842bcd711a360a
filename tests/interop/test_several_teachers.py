"""Several teachers through the command line: mixed and routed trainings are resumed and replayed, and every teacher is in lineage, policy and report."""
import json
import os

import pytest

from program import OVERPROOF, SOURCE, count_writes, overproof, stopped

SEED = "00c0ffee"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    (folder / "texts").mkdir()
    records = []
    for i, file in enumerate(sorted((SOURCE / "examples/texts").glob("*.txt"))):
        (folder / "texts" / file.name).write_bytes(file.read_bytes())
        record = {"name": file.name, "license": ("CC0-1.0", "MIT")[i % 2], "source": ("even", "odd")[i % 2]}
        records.append(record | ({"teacher": "b"} if i % 2 else {}))
    (folder / "texts/documents.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    run = folder / "run"
    for name, seed in (("a", 1), ("b", 2), ("student-init", 3)):
        overproof("tiny-teacher", "--seed", seed, "--out", run / name)
    overproof("corpus", "--source", folder / "texts", "--tokenizer", run / "a", "--window-length", 64, "--held-out", 0.25, "--out", run / "corpus")
    for teacher in "ab":
        overproof("teach", "--teacher", run / teacher, "--corpus", run / "corpus", "--tokens", 1280, "--out", run / f"targets-{teacher}")
    return run


def distill(run, name, *options, code=0, wrap=overproof):
    return wrap("distill", "--student", run / "student-init", "--targets", run / "targets-a", "--corpus", run / "corpus", "--batch-size", 2, "--steps", 6,
                "--digest-every", 2, "--checkpoint-every", 1, "--out", run / name, *options, **({} if wrap is not overproof else {"code": code}))


def statement(run, name):
    import base64
    envelope = json.loads((run / name / "claims.jsonl").read_text().splitlines()[0])
    return json.loads(base64.b64decode(envelope["payload"]))


CASES = {
    "mixed-alongside": (["--teachers", "a={0}/a,b={0}/b", "--mix", "a=1,b=3", "--loss", "reverse-kl=1", "--evaluate-every", "3"],
                        [("a", {"share": 0.25}), ("b", {"share": 0.75})], "re-derivable"),
    "mixed-stored": (["--teachers", "b={0}/targets-b", "--mix", "targets=0.5,b=0.5"], [("targets", {"share": 0.5}), ("b", {"share": 0.5})], "re-derivable"),
    "routed-stored": (["--teachers", "b={0}/targets-b", "--route-by", "source", "--routes", "even=targets,odd=b"], [("b", {}), ("targets", {})], "re-derivable"),
    "routed-field": (["--teachers", "a={0}/a,b={0}/b", "--route-by", "teacher", "--routes", "*=a", "--loss", "jensen-shannon=1", "--evaluate-every", "3"],
                     [("a", {}), ("b", {})], "re-derivable"),
    "routed-license": (["--teachers", "b={0}/b", "--route-by", "license", "--routes", "CC0-1.0=targets,MIT=b"], [("b", {}), ("targets", {})], "re-derivable"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_training_with_several_teachers_is_signed_and_replayed(run, name):
    options, teachers, evidence = CASES[name]
    distill(run, name, *(o.format(run) for o in options))
    metrics = json.loads(overproof("show", run / name, "--json").stdout)
    facts = json.dumps(metrics)
    said = statement(run, name)
    predicate = json.dumps(said)
    for slot in [o.split("=")[0] for o in options[1].split(",")]:
        assert f'"{slot}"' in predicate
    found = find(metrics, "teachers")
    assert [t["name"] for t in found] == [t for t, _ in teachers] and all(t["evidence"] == evidence for t in found), facts
    for fact, (_, wanted) in zip(found, teachers):
        assert all(fact[k] == pytest.approx(v) for k, v in wanted.items())
    if name.startswith("routed"):
        assert sum(t["documents"] for t in found) > 1 and all(t["tokens"] > 0 for t in found)
    lines = [json.loads(line) for line in (run / name / "steps.jsonl").read_text().splitlines()]
    assert ("forward-kl" in lines[2].get("held_out", {})) == ("--evaluate-every" in options)
    result = json.loads(overproof("audit", "replay", run, "--artifact", name, "--seed", SEED, "--segments", 1, "--json").stdout)
    assert result["holds"], result
    assert overproof("audit", "verify", run, code=None).returncode == 0


def find(node, key):
    if isinstance(node, dict):
        if key in node:
            return node[key]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            if (found := find(item, key)) is not None:
                return found
    return None


def test_a_killed_training_with_several_teachers_ends_with_the_same_bytes(run, tmp_path):
    options = [o.format(run) for o in CASES["routed-field"][0]]
    distill(run, "whole", *options)
    writes = count_writes("distill", "--student", run / "student-init", "--targets", run / "targets-a", "--corpus", run / "corpus", "--batch-size", 2,
                          "--steps", 6, "--digest-every", 2, "--checkpoint-every", 1, "--out", run / "counted", *options, file=tmp_path / "count")
    assert writes > 10
    distill(run, "killed", *options, "--force", wrap=lambda *words: stopped(*words, at_write=writes // 2))
    assert not (run / "killed/claims.jsonl").exists()
    distill(run, "killed", *options)
    for file in ("model.safetensors", "steps.safetensors"):
        assert (run / "killed" / file).read_bytes() == (run / "whole" / file).read_bytes()


def test_the_report_and_the_policy_know_every_teacher(run):
    if not (run / "mixed-alongside").exists():
        distill(run, "mixed-alongside", *(o.format(run) for o in CASES["mixed-alongside"][0]))
    page = overproof("audit", "report", run / "mixed-alongside", "--format", "markdown", "--out", "-").stdout
    rows = [line for line in page.splitlines() if line.startswith("|")]
    for teacher in "ab":  # each is a model of its own row, as a teacher
        assert any(f"| {teacher} |" in line and "teacher" in line for line in rows), page
    made_from = overproof("audit", "trace", run, "--export", "mixed-alongside").stdout
    for name in ("a", "b", "student-init", "corpus", "targets-a"):
        assert name in made_from.split() or f"'{name}'" in made_from or f" {name}" in made_from, (name, made_from)


def test_a_recipe_gives_teachers_by_name(run, tmp_path):
    (tmp_path / "two.ini").write_text(f"""
[a]
stage = tiny-teacher
seed = 1
[b]
stage = tiny-teacher
seed = 2
[corpus]
source = {run.parent / 'texts'}
tokenizer = a
window-length = 64
held-out = 0.25
[soft-targets]
stage = teach
teacher = a
tokens = 640
[student]
stage = distill
student = a
targets = soft-targets
second = b
mix = targets=1,second=1
steps = 2
batch-size = 2
""")
    overproof("run", tmp_path / "two.ini", "--out", tmp_path / "run")
    assert '"second"' in json.dumps(statement(tmp_path / "run", "student"))
    assert overproof("audit", "verify", tmp_path / "run", code=None).returncode == 0


def test_teachers_alongside_need_no_soft_targets(run):
    words = ["distill", "--student", run / "student-init", "--corpus", run / "corpus", "--batch-size", 2, "--steps", 4, "--digest-every", 2, "--order-seed", 9]
    overproof(*words, "--teachers", f"x={run}/a,y={run}/b", "--mix", "x=1,y=1", "--out", run / "alongside")
    result = json.loads(overproof("audit", "replay", run, "--artifact", "alongside", "--seed", SEED, "--segments", 1, "--json").stdout)
    assert result["holds"], result
    assert overproof("audit", "verify", run, code=None).returncode == 0
    step = overproof("audit", "trace", run, "--step", "alongside:1").stdout
    assert "corpus" in step
    assert "nothing to learn from" in overproof(*words, "--out", run / "x", code=2).stderr


def test_mistakes_are_named(run):
    assert "learning-rate" in distill(run, "x", "--learning-rte", "1", code=2).stderr
    assert "--mix or --route-by" in distill(run, "x", "--teachers", f"b={run}/b", code=2).stderr
    refused = distill(run, "x", "--teachers", f"b={run}/b", "--route-by", "teacher", code=2).stderr
    assert "no teacher is responsible for the document" in refused and "*=NAME" in refused
    assert not (run / "x").exists()
