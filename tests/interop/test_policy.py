"""What holds an export back: licences of documents, terms of teachers, ancestors that are not here. Signed when it is let go."""
import base64
import json
import shutil

import pytest

from program import overproof
from sealed_run import DOCUMENTS, Run, new_key, write_private

FREE = [(n, s, "CC0-1.0", t) for n, s, _, t in DOCUMENTS]


def items(run, *words, of="int8", code=0):
    verdict = json.loads(overproof("audit", "policy", run.path / of, "--json", *words, code=code).stdout)
    assert verdict["holds"] == (code == 0)
    return {i["name"]: i for i in verdict["items"]}


def states(*words, **more):
    return {name: i["state"] for name, i in items(*words, **more).items()}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("mixed") / "run")


def test_free_documents_and_a_permissive_teacher_need_nothing(tmp_path):
    run = Run(tmp_path / "run", documents=FREE)
    assert states(run) == {"Apache-2.0": "allowed", "CC0-1.0": "allowed"}


def test_what_must_be_looked_at(mixed):
    found = items(mixed, code=4)
    assert {n: i["state"] for n, i in found.items()} == {
        "Apache-2.0": "allowed", "CC0-1.0": "allowed",
        "Artistic-1.0": "allowed",  # chosen out of "GPL-1+ or Artistic"
        "GPL-2.0-or-later": "open", "Linux-man-pages-copyleft": "open",  # share-alike
        "LicenseRef-RRA-KEEP-THIS-NOTICE": "open"}  # unlisted
    assert found["Apache-2.0"]["from"] == ["teacher (weights, outputs, tokenizer, statistics)"]
    assert any(d.startswith("share-alike") for d in found["GPL-2.0-or-later"]["duties"])


def test_acknowledging_by_name(mixed):
    names = "GPL-2.0-or-later,Linux-man-pages-copyleft"
    assert states(mixed, "--acknowledge", names, code=4)["LicenseRef-RRA-KEEP-THIS-NOTICE"] == "open"
    # As it was recorded, in any case, with blanks.
    assert states(mixed, "--acknowledge", "gpl-2+, linux-man-pages-copyleft , RRA-keep-this-notice")["GPL-2.0-or-later"] == "acknowledged"
    text = overproof("audit", "policy", mixed.path / "int8", code=4).stdout
    assert "--acknowledge GPL-2.0-or-later,LicenseRef-RRA-KEEP-THIS-NOTICE,Linux-man-pages-copyleft" in text


@pytest.mark.parametrize("license_name, dense, expected", [
    ("MIT", True, {"MIT": "allowed"}),
    ("", True, {"unspecified": "open"}),
    ("unspecified", False, {"unspecified": "open"}),
    ("openai", False, {"LicenseRef-OpenAI-terms": "open"}),
    ("gemma", False, {"LicenseRef-gemma": "open"}),
    ("deepseek-license", False, {"LicenseRef-deepseek-license": "open"}),
    ("llama3.1", True, {"LicenseRef-llama3.1": "open"}),
    ("llama3.1", False, {"LicenseRef-llama3.1": "open"}),  # even where only its answers were used
    ("qwen", False, {"LicenseRef-qwen": "open"}),
    ("GPL-3.0-only", True, {"GPL-3.0-only": "open"}),
    ("Some Odd Licence", True, {"LicenseRef-Some-Odd-Licence": "open"}),
])
def test_teachers(tmp_path, license_name, dense, expected):
    run = Run(tmp_path / "run", teacher_license=license_name, documents=FREE, dense=dense)
    found = states(run, code=0 if set(expected.values()) == {"allowed"} else 4)
    assert {n: s for n, s in found.items() if n != "CC0-1.0"} == expected


def test_what_follows_the_answers_and_what_only_the_weights(tmp_path):
    """Share-alike is not asked of a model that only learnt from answers; a tokenizer counts as weights, so this corpus has another."""
    for name, duty in (("gemma", "derivative-by-output"), ("openai", "no-competing-models"), ("llama2", "own-family-only"), ("llama3.3", "name-prefix")):
        run = Run(tmp_path / name, teacher_license=name, documents=FREE, dense=False)
        found = next(i for n, i in items(run, code=4).items() if n != "CC0-1.0")
        assert any(d.startswith(duty) for d in found["duties"]), found


def test_a_name_that_the_terms_ask_for(tmp_path):
    run = Run(tmp_path / "run", teacher_license="llama3.1", documents=FREE)
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"format": 1, "duties": {"built-with": "allow", "use-restrictions": "allow", "scale-limit": "allow"}}))
    assert states(run, "--policy", policy, code=4)["LicenseRef-llama3.1"] == "open"
    assert states(run, "--policy", policy, "--name", "Tiny", code=4)["LicenseRef-llama3.1"] == "open"
    assert states(run, "--policy", policy, "--name", "Llama-Tiny")["LicenseRef-llama3.1"] == "satisfied"


def test_missing_ancestors_cannot_be_judged(mixed, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copytree(mixed.path / "int8", tmp_path / "run/int8")
    alone = Run.__new__(Run)
    alone.path = tmp_path / "run"
    assert states(alone, code=4) == {"unknown-ancestry": "open"}
    assert states(alone, "--acknowledge", "unknown-ancestry") == {"unknown-ancestry": "acknowledged"}
    shutil.copytree(mixed.path / "student", tmp_path / "run/student")
    assert states(alone, code=4) == {"unknown-ancestry": "open"}


def test_a_forged_ancestor_counts_as_missing(mixed, tmp_path):
    shutil.copytree(mixed.path, tmp_path / "run")
    run = Run.__new__(Run)
    run.path = tmp_path / "run"
    claim = json.loads((run.path / "teacher/claims.jsonl").read_text())
    payload = base64.b64decode(claim["payload"]).replace(b"Apache-2.0", b"Apache-1.1")
    (run.path / "teacher/claims.jsonl").write_text(json.dumps(dict(claim, payload=base64.b64encode(payload).decode())) + "\n")
    found = states(run, code=4)
    assert found["unknown-ancestry"] == "open" and "Apache-1.1" not in found


def test_policy_files(mixed, tmp_path):
    policy = tmp_path / "policy.json"

    def using(code=0, **content):
        policy.write_text(json.dumps({"format": 1, **content}))
        return states(mixed, "--policy", policy, code=code)
    assert set(using(duties={"share-alike": "allow"}, unlisted="allow").values()) == {"allowed"}
    denied = using(code=4, licenses={"GPL-2+": "deny"}, unlisted="allow")
    assert denied["GPL-2.0-or-later"] == "denied" and denied["Linux-man-pages-copyleft"] == "open"
    text = overproof("audit", "policy", mixed.path / "int8", "--policy", policy, "--acknowledge", "GPL-2.0-or-later,Linux-man-pages-copyleft", code=4)
    assert "denied by the policy" in text.stdout
    # With the Artistic licence denied, the other branch of the choice is taken.
    other = using(code=4, licenses={"Artistic-1.0": "deny", "GPL-1.0-or-later": "allow"}, duties={"share-alike": "allow"})
    assert other == {"Apache-2.0": "allowed", "CC0-1.0": "allowed", "GPL-1.0-or-later": "allowed", "GPL-2.0-or-later": "allowed",
                     "Linux-man-pages-copyleft": "allowed", "LicenseRef-RRA-KEEP-THIS-NOTICE": "open"}
    assert using(code=4, licenses={"LicenseRef-RRA-KEEP-THIS-NOTICE": "allow"})["LicenseRef-RRA-KEEP-THIS-NOTICE"] == "allowed"


@pytest.mark.parametrize("content, message", [
    ('{"format": 2}', "'format' is 2; allowed: 1 to 1"),
    ("{}", "'format' is missing"),
    ('{"format": 1, "duty": {}}', "'duty' is not a known member"),
    ('{"format": 1, "duties": {"share-alik": "allow"}}', "did you mean 'share-alike'?"),
    ('{"format": 1, "duties": {"share-alike": "maybe"}}', '"allow", "acknowledge" or "deny"'),
    ('{"format": 1, "licenses": {"MIT or ISC": "allow"}}', "one licence at a time"),
    ('{"format": 1, "licenses": {"Expat": "allow", "MIT": "deny"}}', "under two spellings"),
    ('{"format": 1, "licenses": []}', "'licenses' is not a JSON object"),
    ('{"format": 1, "format": 1}', "twice"),
    ("not json", "not valid JSON"),
])
def test_broken_policy_files(mixed, tmp_path, content, message):
    (tmp_path / "policy.json").write_text(content)
    done = overproof("audit", "policy", mixed.path / "int8", "--policy", tmp_path / "policy.json", code=3)
    assert message in done.stderr and "policy.json" in done.stderr


def test_the_built_in_policy_is_a_file_to_start_from(mixed, tmp_path):
    policy = tmp_path / "policy.json"
    policy.write_text(overproof("audit", "policy", "--show-policy").stdout)
    assert items(mixed, "--policy", policy, code=4) == items(mixed, code=4)


# Export

def checkpoint(folder):
    """The least that export takes: a llama of one layer with a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    torch.manual_seed(1)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    LlamaForCausalLM(LlamaConfig(vocab_size=256, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                                 num_key_value_heads=2)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=alphabet[0]).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    checkpoint(folder / "hf")
    key = folder / "key.pem"
    write_private(new_key(), key)
    for name in ("Apache-2.0", "llama3.1"):
        overproof("import", "--path", folder / "hf", "--license", name, "--out", folder / name / "teacher", "--key", key)
    return folder


def export(models, model, out, *words, code=0):
    return overproof("export", "--model", model, "--out", out, "--key", models / "key.pem", *words, code=code)


def statement(artifact):
    return json.loads(base64.b64decode(json.loads((artifact / "claims.jsonl").read_text().splitlines()[0])["payload"]))


def test_export_of_a_permissive_model(models):
    export(models, models / "Apache-2.0/teacher", models / "Apache-2.0/gguf")
    predicate = statement(models / "Apache-2.0/gguf")["predicate"]
    judged = predicate["runDetails"]["byproducts"][0]["annotations"]["policy"]
    assert judged["source"] == "built-in" and [i["state"] for i in judged["items"]] == ["allowed"]
    overproof("audit", "verify", models / "Apache-2.0")


def test_export_is_held_back_and_leaves_nothing(models):
    done = export(models, models / "llama3.1/teacher", models / "llama3.1/gguf", code=4)
    assert "blocked by policy" in done.stderr and "--acknowledge LicenseRef-llama3.1" in done.stderr
    assert 'begins with "Llama"' in done.stderr
    assert sorted(p.name for p in (models / "llama3.1").iterdir()) == ["teacher"]


def test_acknowledgement_is_signed(models):
    out = models / "llama3.1/gguf-acknowledged"
    export(models, models / "llama3.1/teacher", out, "--acknowledge", "llama3.1", "--name", "Llama-Tiny")
    predicate = statement(out)["predicate"]
    assert predicate["buildDefinition"]["externalParameters"]["acknowledge"] == ["llama3.1"]
    judged = predicate["runDetails"]["byproducts"][0]["annotations"]["policy"]["items"]
    assert [(i["name"], i["state"]) for i in judged] == [("LicenseRef-llama3.1", "acknowledged")]
    # The signed acknowledgement counts when the export is judged afterwards; without it, it does not pass.
    assert json.loads(overproof("audit", "policy", out, "--json").stdout)["holds"]
    assert "unchanged" in export(models, models / "llama3.1/teacher", out, "--acknowledge", "llama3.1", "--name", "Llama-Tiny").stdout
    assert "blocked by policy" in export(models, models / "llama3.1/teacher", models / "llama3.1/other", code=4).stderr


def test_the_policy_file_is_recorded_by_digest(models, tmp_path):
    import hashlib
    policy = tmp_path / "house.json"
    policy.write_text(json.dumps({"format": 1, "licenses": {"LicenseRef-llama3.1": "allow"}}))
    out = models / "llama3.1/gguf-by-policy"
    export(models, models / "llama3.1/teacher", out, "--policy", policy)
    config = statement(out)["predicate"]["buildDefinition"]["externalParameters"]
    file_digest = hashlib.sha256(policy.read_bytes()).digest()
    assert config["policy-sha256"] == hashlib.sha256(file_digest).hexdigest()
    assert str(tmp_path) not in json.dumps(statement(out))
    policy.write_text(json.dumps({"format": 1, "licenses": {"LicenseRef-llama3.1": "deny"}}))
    assert "denied by the policy" in export(models, models / "llama3.1/teacher", out, "--policy", policy, code=4).stderr
    overproof("audit", "verify", out)  # the earlier one is as it was


def test_a_model_without_lineage(models, tmp_path):
    done = export(models, models / "hf", tmp_path / "gguf", code=4)
    assert "unknown-ancestry" in done.stderr and not (tmp_path / "gguf").exists()
    export(models, models / "hf", tmp_path / "gguf", "--acknowledge", "unknown-ancestry")
    # Stripping a model's statement does not get it past its licence.
    shutil.copytree(models / "llama3.1/teacher", tmp_path / "run/stripped")
    (tmp_path / "run/stripped/claims.jsonl").unlink()
    (tmp_path / "run/stripped/model.sig").unlink()
    assert "unknown-ancestry" in export(models, tmp_path / "run/stripped", tmp_path / "run/gguf", code=4).stderr


def test_recipes_acknowledge_too(models, tmp_path):
    (tmp_path / "recipe.ini").write_text(f"[teacher]\nstage = import\npath = {models / 'hf'}\nlicense = llama3.1\n"
                                         "[gguf]\nstage = export\nmodel = teacher\n")
    run = ["run", tmp_path / "recipe.ini", "--out", tmp_path / "run", "--key", models / "key.pem"]
    assert "--acknowledge LicenseRef-llama3.1" in overproof(*run, code=4).stderr
    overproof(*run, "--set", "gguf.acknowledge=LicenseRef-llama3.1")
    assert statement(tmp_path / "run/gguf")["predicate"]["buildDefinition"]["externalParameters"]["acknowledge"] == ["LicenseRef-llama3.1"]
