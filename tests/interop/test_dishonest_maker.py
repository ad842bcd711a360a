"""A maker who holds the signing key signs something false, with all digests in order: what verify, replay, recompute and trace say of it then."""
import base64
import hashlib
import json
import os
import shutil

import pytest
from cryptography.hazmat.primitives import serialization
from safetensors.numpy import load_file, save_file

from program import SOURCE, overproof
from sealed_run import envelope, new_key, public_pem, seal

KEPT = ["teacher", "corpus", "soft-targets", "statistics", "student-init", "student"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dishonest")
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    overproof("run", SOURCE / "examples/kill-test.ini", "--out", folder / "run", "--only", "student", "--set", "student.steps=8", "--set", "soft-targets.tokens=1024")
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run that may be changed."""
    (tmp_path / "run").mkdir()
    for name in KEPT:
        shutil.copytree(made / "run" / name, tmp_path / "run" / name)
    return tmp_path / "run"


def statement(artifact):
    return json.loads(base64.b64decode(json.loads((artifact / "claims.jsonl").read_text().splitlines()[0])["payload"]))


def sign_again(artifact, config=None, metrics=None, inputs=None):
    """Signs the files that are there now, with changed options and metrics; a value of None takes one out."""
    key = serialization.load_pem_private_key(open(os.environ["OVERPROOF_KEY"], "rb").read(), None)
    signed = statement(artifact)
    definition, kind = signed["predicate"]["buildDefinition"], signed["predicate"]["overproof_lineage"]
    options = definition["externalParameters"] | (config or {})
    signed_metrics = signed["predicate"]["runDetails"]["byproducts"][0]["annotations"] | (metrics or {})
    bound = {d["name"]: (d["annotations"]["artifact"], d["digest"]["sha256"], d["annotations"]["statementSha256"])
             for d in definition["resolvedDependencies"]} | (inputs or {})
    return seal(artifact, kind["kind"], kind["stage"], key, bound, {k: v for k, v in options.items() if v is not None},
                {k: v for k, v in signed_metrics.items() if v is not None})


def verify(run, code=4):
    return overproof("audit", "verify", run, code=code).stdout


def test_signing_again_alone_changes_nothing(run):
    sign_again(run / "student")
    verify(run, code=0)


def test_a_student_that_was_not_trained(run):
    shutil.copy(run / "student-init/model.safetensors", run / "student/model.safetensors")
    shutil.rmtree(run / "student/routing")
    sign_again(run / "student", metrics={"tuning_kept": False})
    assert "not those that training ended with" in verify(run)
    assert "FAIL: the published weights" in overproof("audit", "replay", run, "--artifact", "student", "--segments", 1, "--seed", "5f2c9a41", code=4).stdout


@pytest.mark.parametrize("metric", [{"batch_size": 1}, {"seed": 5}, {"order-seed": 5}])
def test_metrics_that_contradict_the_options(run, metric):
    before = overproof("audit", "trace", run, "--step", "student:0").stdout
    sign_again(run / "student", metrics=metric)
    assert f"signs the metric '{next(iter(metric))}'" in verify(run)
    # The options are those by which replay makes the steps again.
    assert overproof("audit", "trace", run, "--step", "student:0").stdout == before


def test_a_training_whose_step_records_are_gone(run):
    weights = load_file(run / "student/model.safetensors")
    save_file({name: -value for name, value in weights.items()}, run / "student/model.safetensors")
    (run / "student/steps.safetensors").unlink()
    gone = {"step_chain": None, "digest_every": None}
    sign_again(run / "student", metrics=gone)
    assert "steps.safetensors: is missing, though its option 'digest-every'" in verify(run)
    sign_again(run / "student", config={"digest-every": 0}, metrics=gone)
    assert "nothing here shows that its weights are those of the training" in verify(run, code=0)
    again = overproof("audit", "recompute", run, code=4).stdout
    assert "student          distill" in again and "signed as sha256" in again
    report = overproof("audit", "report", run, "--format", "markdown", "--out", "-").stdout
    assert "and no step records" in report and "step records agree" not in report


def test_a_log_that_says_more_than_the_records(run):
    lines = [json.loads(line) for line in (run / "student/steps.jsonl").read_text().splitlines()]
    (run / "student/steps.jsonl").write_text("".join(json.dumps(line | {"accuracy": 0.99}) + "\n" for line in lines))
    sign_again(run / "student")
    assert "'accuracy' differs from steps.safetensors" in verify(run)


def test_metrics_of_the_last_step(run):
    sign_again(run / "student", metrics={"final": {"kl": 0.0001}})
    assert "'final.kl'" in verify(run)
    sign_again(run / "student", metrics={"final": None, "tokens": None})
    assert "'tokens'" in verify(run)


def test_how_much_was_taught(run):
    sign_again(run / "soft-targets", metrics={"tokens": 987654321})
    assert "signs the metric 'tokens' as 987654321" in verify(run)


def test_files_next_to_the_weights_under_an_old_format(run):
    (run / "student/modeling_other.py").write_text("print('code')\n")
    config = json.loads((run / "student/generation_config.json").read_text())
    (run / "student/generation_config.json").write_text(json.dumps(config | {"repetition_penalty": 9.0}))
    sign_again(run / "student")
    signed = statement(run / "student")
    signed["predicate"]["overproof_lineage"]["formatVersion"] = 1
    key = serialization.load_pem_private_key(open(os.environ["OVERPROOF_KEY"], "rb").read(), None)
    (run / "student/claims.jsonl").write_text(json.dumps(envelope(signed, key, hashlib.sha256(public_pem(key)).hexdigest())) + "\n")
    found = overproof("audit", "replay", run, "--artifact", "student", "--segments", 1, "--seed", "5f2c9a41", code=4).stdout
    assert "FAIL: modeling_other.py: is signed, but this training does not make it" in found and "FAIL: generation_config.json" in found


def test_times_and_other_members_of_the_run(run):
    signed = statement(run / "student")
    signed["predicate"]["runDetails"]["metadata"] = {"startedOn": "2020-01-01T00:00:00Z"}
    key = serialization.load_pem_private_key(open(os.environ["OVERPROOF_KEY"], "rb").read(), None)
    (run / "student/claims.jsonl").write_text(json.dumps(envelope(signed, key, hashlib.sha256(public_pem(key)).hexdigest())) + "\n")
    said = overproof("show", run / "student", code=None).stderr
    assert "metadata" in said and "is not a known member" in said


def new_statistics(run):
    overproof("observe", "--teacher", run / "teacher", "--corpus", run / "corpus", "--tokens", 64, "--out", run / "statistics")
    return run / "statistics"


def test_a_license_table_that_hides_a_license(run):
    lines = [json.loads(line) for line in (run / "corpus/documents.jsonl").read_text().splitlines()]
    assert {line["license"] for line in lines} == {"Apache-2.0"}
    (run / "corpus/documents.jsonl").write_text("".join(json.dumps(line | {"license": "CC-BY-NC-4.0"}, sort_keys=True) + "\n" for line in lines))
    sign_again(run / "corpus")
    for name in ("soft-targets", "statistics", "student-init", "student"):
        shutil.rmtree(run / name)  # what was made from the old table
    overproof("prune-neurons", "--teacher", run / "teacher", "--statistics", new_statistics(run), "--method", "active", "--keep", 0.5, "--out", run / "pruned")
    for words in (("policy", run / "pruned"), ("sbom", run / "pruned"), ("trace", run, "--export", "pruned")):
        assert "is not the sum of documents.jsonl" in overproof("audit", *words, code=4).stderr


def test_a_decoy_has_the_name_of_the_auditors_file(run, tmp_path):
    """The auditor's text was trained on under another name, and a document that was held out has the name of the auditor's file."""
    mine = tmp_path / "mine.txt"
    mine.write_text("This text is the auditor's own, and it was used for training. " * 8)
    other = "Another text, which has the name of the auditor's file and nothing else of it. " * 8
    digest = hashlib.sha256(mine.read_bytes()).hexdigest()
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"name": n, "text": t, "license": "CC0-1.0"}) + "\n"
                                                 for n, t in (("something.txt", mine.read_text()), (str(mine), other), (digest, other + "x"), ("sha256:" + digest, other + "y"))))
    shutil.rmtree(run)
    overproof("corpus", "--source", tmp_path / "texts.jsonl", "--tokenizer", os.environ["OVERPROOF_KEY"].replace("key.pem", "run/teacher"), "--window-length", 16,
              "--held-out", 0, "--out", run / "corpus")
    for asked in (mine, digest, "sha256:" + digest):
        assert json.loads(overproof("audit", "trace", run, "--document", asked, "--json").stdout)["document"]["name"] == "something.txt"
    mine.write_text("A text that is not in the corpus.")
    said = overproof("audit", "trace", run, "--document", mine)
    assert "the text of this file is not in the corpus" in said.stdout


def test_weights_that_a_foreign_signature_leaves_out(made, tmp_path):
    key, folder = new_key(), tmp_path / "model"
    shutil.copytree(made / "run/teacher", folder, ignore=shutil.ignore_patterns("claims.jsonl", "model.sig"))
    left_out = ["model.sig", "model.safetensors"]
    names = sorted(p.name for p in folder.iterdir() if p.name not in left_out)
    digests = [hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names]
    signature = {"_type": "https://in-toto.io/Statement/v1",
                 "subject": [{"name": "model", "digest": {"sha256": hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()}}],
                 "predicateType": "https://model_signing/signature/v1.0",
                 "predicate": {"serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": left_out},
                               "resources": [{"name": n, "algorithm": "sha256", "digest": d} for n, d in zip(names, digests)]}}
    (folder / "model.sig").write_text(json.dumps({"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                                                  "verificationMaterial": {"publicKey": {"hint": hashlib.sha256(public_pem(key)).hexdigest()}, "tlogEntries": []},
                                                  "dsseEnvelope": envelope(signature, key, "")}))
    (tmp_path / "publisher.pub").write_bytes(public_pem(key))
    pinned = ("--public-key", tmp_path / "publisher.pub")
    for words in (("generate", folder, "--prompt", "A pipe"), ("inspect", folder), ("import", "--path", folder, "--out", tmp_path / "run/teacher")):
        assert "does not cover 'model.safetensors'" in overproof(*words, *pinned, code=4).stderr


def test_records_are_not_written_through_a_link(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (run / "audits").symlink_to(tmp_path / "elsewhere")
    done = overproof("audit", "replay", run, "--artifact", "student", "--segments", 1, "--seed", "5f2c9a41", "--record", code=None)
    assert done.returncode == 4 and "is a link" in done.stderr and not list((tmp_path / "elsewhere").iterdir())


def test_a_model_stays_one_that_may_be_shipped_after_it_was_observed(run):
    overproof("observe", "--teacher", run / "student", "--corpus", run / "corpus", "--tokens", 64, "--out", run / "after")
    report = overproof("audit", "report", run, "--format", "markdown", "--out", "-").stdout
    assert "Final model here: ‘student’." in report


def test_curves_of_an_honest_calibration(run):
    overproof("calibrate", "--student", run / "student", "--teacher", run / "teacher", "--corpus", run / "corpus", "--curve", "--steps", 4, "--target-activation", 0.5,
              "--out", run / "calibrated")
    overproof("audit", "replay", run, "--artifact", "calibrated", "--segments", 1, "--seed", "5f2c9a41")


def test_an_honest_calibration_without_steps_is_traced(run):
    overproof("calibrate", "--student", run / "student", "--teacher", run / "teacher", "--targets", run / "soft-targets", "--corpus", run / "corpus", "--steps", 0,
              "--target-activation", 0.5, "--out", run / "calibrated")
    document = json.loads((run / "corpus/documents.jsonl").read_text().splitlines()[0])["name"]
    overproof("audit", "trace", run, "--document", document)
