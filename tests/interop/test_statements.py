"""Statements in other people's formats, each held to their own validator: in-toto, SLSA, CycloneDX, SPDX, Croissant. Each is also shown
something that it must refuse, so that a validator that accepts everything is noticed."""
import base64
import hashlib
import json
import pathlib
import subprocess
import sys
import urllib.parse

import pytest

from program import overproof
from sealed_run import Run, digests, new_key, public_pem

TIME = "2026-11-24T12:00:00Z"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("statements") / "run")


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """The same lineage with one document changed, one gone, one come, and one more step."""
    from sealed_run import DOCUMENTS
    documents = [d for d in DOCUMENTS if d[0] != "notes/one"]
    documents = [(n, s, "MIT" if n == "notes/odd" else l, t + "!" if n == "pages/read.2" else t) for n, s, l, t in documents]
    return Run(tmp_path_factory.mktemp("changed") / "run", documents=documents + [("pages/new.2", "pages", "GPL-3+", "something new")])


def require_seals(run):
    """All holds but what verify makes again of a corpus: the documents, splits and tokens here are made up, not made by the stage."""
    answer = json.loads(overproof("audit", "verify", run.path, "--json", code=4).stdout.splitlines()[-1])
    assert all(artifact["holds"] for artifact in answer["artifacts"])
    failures = [fault for fault in answer["findings"] if fault["severity"] == "failure"]
    assert failures and {fault["artifact"] for fault in failures} == {"corpus"}
    assert all("make the corpus again" in fault["remedy"] for fault in failures)


def test_the_synthetic_run_is_one_of_ours(run):
    require_seals(run)


# in-toto and SLSA

def parse_statement(text):
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement
    Statement.copy_from_pb(json_format.ParseDict(json.loads(text), statement_pb2.Statement())).validate()
    return json.loads(text)


def parse_slsa(statement):
    """Strictly: an unknown field is an error, but for our own, named as SLSA asks of extensions: <vendor>_<name>."""
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    predicate = dict(statement["predicate"])
    assert {k for k in predicate if k.startswith("overproof_")} == {"overproof_lineage"}
    predicate.pop("overproof_lineage")
    return json_format.ParseDict(predicate, provenance_pb2.Provenance())


def test_statement_is_what_was_signed(run):
    printed = overproof("audit", "statement", run.path / "int8").stdout
    claim = json.loads((run.path / "int8/claims.jsonl").read_text())
    assert printed.encode() == base64.b64decode(claim["payload"]) + b"\n"
    assert json.loads(overproof("audit", "statement", run.path / "int8", "--envelope").stdout) == claim
    assert json.loads(overproof("audit", "statement", run.path / "int8", "--pretty").stdout) == json.loads(printed)
    out = run.path.parent / "statement.json"
    overproof("audit", "statement", run.path / "int8", "--out", out)
    assert out.read_bytes() == base64.b64decode(claim["payload"])


def test_in_toto_and_slsa_accept_every_statement_of_a_run(run):
    lines = overproof("audit", "statement", run.path).stdout.splitlines()
    assert len(lines) == len(run.roots)
    for line in lines:
        statement = parse_statement(line)
        provenance = parse_slsa(statement)
        assert provenance.build_definition.build_type.startswith("urn:overproof:stage:")
        assert provenance.run_details.builder.id and statement["subject"][0]["digest"]["sha256"] in run.roots.values()


def test_in_toto_and_slsa_accept_what_the_program_signs(tmp_path):
    import numpy
    from safetensors.numpy import save_file
    (tmp_path / "hf").mkdir()
    save_file({"model.embed_tokens.weight": numpy.ones((4, 4), "float32")}, tmp_path / "hf/model.safetensors")
    (tmp_path / "hf/config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    overproof("import", "--path", tmp_path / "hf", "--out", tmp_path / "run/teacher", "--license", "MIT", "--key", tmp_path / "key.pem")
    statement = parse_statement(overproof("audit", "statement", tmp_path / "run/teacher").stdout)
    assert parse_slsa(statement).build_definition.external_parameters["license"] == "MIT"


@pytest.mark.parametrize("spoil", [
    lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
    lambda s: s.update(subject=[]),
    lambda s: s["subject"][0].update(digest={}),
    lambda s: s.update(predicateType=""),
    lambda s: s.update(more=1),
])
def test_in_toto_refuses(run, spoil):
    statement = json.loads(overproof("audit", "statement", run.path / "int8").stdout)
    spoil(statement)
    with pytest.raises(Exception):
        parse_statement(json.dumps(statement))


@pytest.mark.parametrize("spoil", [
    lambda p: p["buildDefinition"].update(buildTypo="x"),
    lambda p: p["runDetails"].update(metadata={"startedOn": "yesterday"}),
    lambda p: p["buildDefinition"].update(resolvedDependencies={"name": "model"}),
])
def test_slsa_refuses(run, spoil):
    statement = json.loads(overproof("audit", "statement", run.path / "int8").stdout)
    spoil(statement["predicate"])
    with pytest.raises(Exception):
        parse_slsa(statement)


def test_a_statement_whose_signature_does_not_hold_is_not_passed_on(run, tmp_path):
    import shutil
    shutil.copytree(run.path, tmp_path / "run")
    file = tmp_path / "run/int8/claims.jsonl"
    claim = json.loads(file.read_text())
    statement = json.loads(base64.b64decode(claim["payload"]))
    statement["predicate"]["buildDefinition"]["externalParameters"]["scheme"] = "fp8"
    claim["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    file.write_text(json.dumps(claim) + "\n")
    for verb in (["statement"], ["sbom"], ["sbom", "--format", "spdx"], ["openlineage"], ["summary", "--eu"]):
        done = overproof("audit", verb[0], tmp_path / "run/int8", *verb[1:], code=4)
        assert "does not hold" in done.stderr and not done.stdout


def test_a_stranger_s_key_is_noticed(run, tmp_path):
    (tmp_path / "other.pub").write_bytes(public_pem(new_key()))
    (tmp_path / "signer.pub").write_bytes(public_pem(run.key))
    for verb in (["statement"], ["sbom"], ["openlineage"]):
        overproof("audit", verb[0], run.path / "int8", "--public-key", tmp_path / "other.pub", code=4)
        overproof("audit", verb[0], run.path / "int8", "--public-key", tmp_path / "signer.pub")


# CycloneDX

def cyclonedx_fault(text):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)


@pytest.mark.parametrize("of", ["", "int8", "corpus", "soft-targets", "evaluation", "teacher"])
def test_cyclonedx_accepts(run, of):
    text = overproof("audit", "sbom", run.path / of).stdout
    assert cyclonedx_fault(text) is None
    bom = json.loads(text)
    assert "timestamp" not in bom["metadata"]
    refs = [c["bom-ref"] for c in bom["components"]] + [bom["metadata"]["component"]["bom-ref"]]
    assert len(set(refs)) == len(refs)
    named = {d["ref"] for d in bom["dependencies"]} | {r for d in bom["dependencies"] for r in d["dependsOn"]}
    assert named <= set(refs)


def test_cyclonedx_says_what_the_statements_say(run):
    bom = json.loads(overproof("audit", "sbom", run.path / "int8", "--created", TIME).stdout)
    assert bom["metadata"]["timestamp"] == TIME
    model = bom["metadata"]["component"]
    assert model["type"] == "machine-learning-model" and model["version"] == "sha256:" + run.roots["int8"]
    assert {h["content"] for c in model["components"] for h in c["hashes"]} == {d for _, _, d in digests(run.path / "int8")}
    assert {a["version"] for a in model["pedigree"]["ancestors"]} == {"sha256:" + run.roots[n] for n in ("student", "student-init", "teacher")}
    parts = {c["bom-ref"]: c for c in bom["components"]}
    assert "artifact:evaluation" not in parts  # no ancestor of the model
    assert parts["artifact:teacher"]["licenses"] == [{"license": {"id": "Apache-2.0", "acknowledgement": "declared"}}]
    expression = parts["artifact:corpus"]["licenses"][0]["expression"]
    for piece in ("GPL-2.0-or-later", "(GPL-1.0-or-later OR Artistic-1.0)", "CC0-1.0", "LicenseRef-RRA-KEEP-THIS-NOTICE", "Linux-man-pages-copyleft"):
        assert piece in expression.split(" AND ")
    datasets = {d["ref"] for d in model["modelCard"]["modelParameters"]["datasets"]}
    assert datasets == {"artifact:corpus", "artifact:soft-targets"}
    workflow = next(w for w in bom["formulation"][0]["workflows"] if w["name"] == "distill")
    assert {"name": "steps", "value": "3"} in next(i["parameters"] for i in workflow["inputs"] if "parameters" in i)
    whole = json.loads(overproof("audit", "sbom", run.path).stdout)
    measured = next(c for c in whole["components"] if c["bom-ref"] == "artifact:int8")["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "perplexity", "value": "20.25", "slice": "held-out documents"} in measured


@pytest.mark.parametrize("spoil", [
    lambda b: b["components"][0].update(type="model"),
    lambda b: b["components"][0]["components"][0]["hashes"][0].update(content="xyz"),
    lambda b: b.update(serialNumber="1234"),
    lambda b: b["metadata"]["component"].update(unknown=1),
    lambda b: next(c for c in b["components"] if "licenses" in c).update(licenses=[{"license": {"id": "No-Such-License"}}]),
    lambda b: b["formulation"][0]["workflows"][0].update(taskTypes=["ponder"]),
])
def test_cyclonedx_refuses(run, spoil):
    bom = json.loads(overproof("audit", "sbom", run.path).stdout)
    spoil(bom)
    assert cyclonedx_fault(json.dumps(bom)) is not None


# SPDX

def load_spdx(document):
    """Reads types, enumerations and patterns; then every reference must be bound, and every mandatory property be there to write it back."""
    import spdx_python_model
    model, objects = spdx_python_model.load_data(document)
    outside = "https://spdx.org/rdf/3.0.1/terms/"
    missing = {m for m in objects.link() if not m.startswith(outside)}
    assert not missing, missing
    import io
    written = io.BytesIO()
    model.JSONLDSerializer().write(objects, written)
    return model, objects


@pytest.mark.parametrize("of", ["", "int8", "corpus", "teacher", "evaluation"])
def test_spdx_accepts(run, of):
    for more in ([], ["--created", TIME]):
        document = json.loads(overproof("audit", "sbom", run.path / of, "--format", "spdx", *more).stdout)
        load_spdx(document)


def test_spdx_says_what_the_statements_say(run):
    model, objects = load_spdx(json.loads(overproof("audit", "sbom", run.path / "int8", "--format", "spdx", "--created", TIME).stdout))
    by_name = {}
    for kind in (model.ai_AIPackage, model.dataset_DatasetPackage):
        for o in objects.foreach_type(kind):
            by_name[o._id.rsplit(":", 1)[1]] = o
    assert set(by_name) == {"teacher", "corpus", "soft-targets", "statistics", "student-init", "student", "int8"}
    relations = {}
    for r in objects.foreach_type(model.Relationship):
        name = lambda o: (o if isinstance(o, str) else o._id).split(":spdx:", 1)[-1].split(":", 1)[-1]
        relations.setdefault(r.relationshipType.rsplit("/", 1)[1], set()).update((name(r.from_), name(t)) for t in r.to)
    assert relations["trainedOn"] == {("artifact:student", "artifact:corpus"), ("artifact:student", "artifact:soft-targets")}
    assert ("artifact:teacher", "artifact:soft-targets") in relations["generates"]
    assert ("artifact:int8", "artifact:student") in relations["descendantOf"]
    assert ("artifact:student-init", "artifact:teacher") in relations["descendantOf"]
    licenses = {to for frm, to in relations["hasDeclaredLicense"] if frm == "artifact:corpus"}
    assert "license:GPL-1.0-or-later%20OR%20Artistic-1.0" in licenses and "license:LicenseRef-RRA-KEEP-THIS-NOTICE" in licenses
    assert {to for frm, to in relations["hasDeclaredLicense"] if frm == "artifact:teacher"} == {"license:Apache-2.0"}
    hashes = {v.hashValue for f in objects.foreach_type(model.software_File) for v in f.verifiedUsing}
    assert {d for _, _, d in digests(run.path / "int8")} <= hashes
    # The AI and Dataset profiles ask for these (model/AI/Classes/AIPackage.md, model/Dataset/Classes/DatasetPackage.md of SPDX 3.0.1).
    for o in by_name.values():
        assert o.releaseTime and o.software_downloadLocation and o.software_primaryPurpose and o.software_packageVersion and o.suppliedBy
        if isinstance(o, model.dataset_DatasetPackage):
            assert o.builtTime and len(o.originatedBy) == 1
    sbom = next(iter(objects.foreach_type(model.software_Sbom)))
    assert {"ai", "dataset"} <= {p.rsplit("/", 1)[1] for p in sbom.profileConformance}


def test_spdx_without_a_time_claims_neither_profile(run):
    document = json.loads(overproof("audit", "sbom", run.path / "int8", "--format", "spdx").stdout)
    created = [e for e in document["@graph"] if e["type"] == "CreationInfo"]
    assert len(created) == 1 and created[0]["created"] == "1970-01-01T00:00:00Z" and "1970 means that" in created[0]["comment"]
    for e in document["@graph"]:
        assert "releaseTime" not in e and "builtTime" not in e
        if e["type"] == "software_Sbom":
            assert not {"ai", "dataset"} & set(e["profileConformance"])


@pytest.mark.parametrize("spoil", [
    lambda g: next(e for e in g if e["type"] == "Relationship").update(relationshipType="knows"),
    lambda g: next(e for e in g if e["type"] == "dataset_DatasetPackage").pop("dataset_datasetType"),
    lambda g: next(e for e in g if e["type"] == "ai_AIPackage").update(ai_autonomyType="maybe"),
    lambda g: next(e for e in g if e["type"] == "CreationInfo").update(created="yesterday"),
    lambda g: g.remove(next(e for e in g if e["type"] == "ai_AIPackage")),
    lambda g: next(e for e in g if e["type"] == "software_File").update(colour="red"),
])
def test_spdx_refuses(run, spoil):
    document = json.loads(overproof("audit", "sbom", run.path / "int8", "--format", "spdx").stdout)
    spoil(document["@graph"])
    with pytest.raises((Exception, AssertionError)):
        load_spdx(document)


def test_bills_of_materials_say_where_they_are_incomplete(run, tmp_path):
    import shutil
    (tmp_path / "run").mkdir()
    for name in ("int8", "student"):
        shutil.copytree(run.path / name, tmp_path / "run" / name)
    text = overproof("audit", "sbom", tmp_path / "run/int8").stdout
    assert cyclonedx_fault(text) is None
    assert json.loads(text)["compositions"] == [{"aggregate": "incomplete", "dependencies": ["artifact:student"]}]
    assert "compositions" not in json.loads(overproof("audit", "sbom", run.path / "int8").stdout)
    for of, wanted in (("int8", {"complete"}), ("student", {"incomplete"})):
        document = json.loads(overproof("audit", "sbom", tmp_path / "run" / of, "--format", "spdx").stdout)
        load_spdx(document)
        build = next(e["spdxId"] for e in document["@graph"] if e["type"] == "build_Build" and e["spdxId"].endswith(of))
        assert {e["completeness"] for e in document["@graph"] if e["type"] == "Relationship" and e["relationshipType"] == "hasInput"
                and e["from"] == build} == wanted


# Croissant

def validate_croissant(file):
    return subprocess.run([pathlib.Path(sys.executable).parent / "mlcroissant", "validate", "--jsonld", str(file)], capture_output=True, text=True)


def records(file, record_set):
    import mlcroissant
    return [{k.split("/")[-1]: v.decode() if isinstance(v, bytes) else v for k, v in r.items()}
            for r in mlcroissant.Dataset(str(file)).records(record_set=record_set)]


@pytest.fixture(scope="module")
def description(run):
    file = run.path.parent / "corpus.croissant.json"
    overproof("audit", "croissant", run.path, "--out", file, "--created", TIME)
    return file


def test_croissant_validates(description):
    done = validate_croissant(description)
    assert done.returncode == 0, done.stderr
    warned = [line.strip() for line in done.stderr.splitlines() if line.strip().startswith("-")]
    assert len(warned) == 1 and "citeAs" in warned[0]  # no citation is recorded


def test_croissant_records_are_the_documents(run, description):
    table = [json.loads(line) for line in (run.path / "corpus/documents.jsonl").read_text().splitlines()]
    assert records(description, "documents") == [{k: r[k] for k in ("digest", "name", "source", "license", "license_rule", "bytes", "split",
                                                                   "first_token", "tokens")} for r in table]
    texts = {r["name"]: r["text"] for s in ("notes", "pages", "perl") for r in records(description, f"texts/{s}")}
    assert texts["pages/read.2"] == "read a file" and set(texts) == {r["name"] for r in table}


def test_croissant_is_rdf_with_prov(run, description):
    import rdflib
    graph = rdflib.Graph().parse(data=description.read_text(), format="json-ld")
    prov = rdflib.Namespace("http://www.w3.org/ns/prov#")
    corpus = rdflib.URIRef(f"urn:overproof:artifact:sha256:{run.roots['corpus']}")
    derived = {str(o) for o in graph.objects(corpus, prov.wasDerivedFrom)}
    assert derived == {f"urn:overproof:artifact:sha256:{d}" for d in (run.roots["teacher"], "1" * 64)}
    activity = next(graph.objects(corpus, prov.wasGeneratedBy))
    assert (activity, rdflib.RDF.type, prov.Activity) in graph
    assert [str(o) for o in graph.objects(activity, prov.used)] == [f"urn:overproof:artifact:sha256:{run.roots['teacher']}"]
    assert graph.value(corpus, prov.wasAttributedTo) is not None
    licenses = {str(o) for o in graph.objects(corpus, rdflib.URIRef("https://schema.org/license"))}
    assert "https://spdx.org/licenses/CC0-1.0" in licenses and "LicenseRef-RRA-KEEP-THIS-NOTICE" in licenses


@pytest.mark.parametrize("spoil", [
    lambda d: d["recordSet"][0]["field"][0]["source"]["fileObject"].update({"@id": "nowhere.jsonl"}),
    lambda d: d["distribution"][0].pop("sha256"),
    lambda d: d["recordSet"][0]["field"][0].pop("dataType"),
    lambda d: d.update(conformsTo="http://mlcommons.org/croissant/9.9"),
])
def test_croissant_refuses(description, tmp_path, spoil):
    document = json.loads(description.read_text())
    spoil(document)
    (tmp_path / "spoiled.json").write_text(json.dumps(document))
    assert validate_croissant(tmp_path / "spoiled.json").returncode != 0


def test_croissant_digests_are_those_of_the_files(run, description):
    said = {f["@id"]: f["sha256"] for f in json.loads(description.read_text())["distribution"]}
    assert said == {n: d for n, _, d in digests(run.path / "corpus")}


@pytest.mark.parametrize("folder, from_disk", [("run 1", True), ("r\u00fcn", True), ("a:b", True), ("a#b", False), ("100%25", False), ("q?x", False)])
def test_croissant_names_files_of_folders_with_any_name(run, tmp_path, folder, from_disk):
    copy = tmp_path / folder / "run"
    subprocess.run(["mkdir", "-p", copy.parent], check=True)
    subprocess.run(["cp", "-a", run.path, copy], check=True)
    (tmp_path / "out dir").mkdir()
    documents = len((copy / "corpus/documents.jsonl").read_text().splitlines())
    file = tmp_path / "out dir" / "c.json"
    done = overproof("audit", "croissant", copy, "--out", file)
    assert ("escapes them" in done.stderr) == (not from_disk)
    base = (tmp_path / "out dir" / "c.json").as_uri()
    for described in json.loads(file.read_text())["distribution"]:
        url = urllib.parse.urlparse(urllib.parse.urljoin(base, described["contentUrl"]))
        assert not url.query and not url.fragment
        path = pathlib.Path(urllib.parse.unquote(url.path))
        assert hashlib.sha256(path.read_bytes()).hexdigest() == described["sha256"]
    if from_disk:  # mlcroissant takes contentUrl for a path
        assert len(records(file, "documents")) == documents
    beside = tmp_path / folder / "c.json"  # next to the run no name needs escaping
    assert "escapes" not in overproof("audit", "croissant", copy, "--out", beside).stderr
    assert len(records(beside, "documents")) == documents


def test_croissant_refuses_to_break_a_seal(run):
    done = overproof("audit", "croissant", run.path / "corpus", "--out", run.path / "corpus/croissant.json", code=2)
    assert "seal it would break" in done.stderr
    require_seals(run)
    overproof("audit", "croissant", run.path / "int8", code=2)


# What holds for all of them

@pytest.mark.parametrize("words", [["sbom"], ["sbom", "--format", "spdx"], ["croissant"], ["summary", "--eu"], ["statement"]])
def test_the_same_run_gives_the_same_bytes(run, words):
    once = overproof("audit", words[0], run.path, *words[1:]).stdout
    assert overproof("audit", words[0], run.path, *words[1:], "--threads", "2").stdout == once
    assert str(run.path.parent) not in once


def test_times_come_from_outside_only(run):
    epoch = overproof("audit", "sbom", run.path, env={"SOURCE_DATE_EPOCH": "1764000000"})
    assert json.loads(epoch.stdout)["metadata"]["timestamp"] == "2025-11-24T16:00:00Z"
    for bad in ("yesterday", "2026-13-01T00:00:00Z", "2026-01-01 00:00:00", "2026-01-01T00:00:00+01:00"):
        overproof("audit", "sbom", run.path, "--created", bad, code=2)
    overproof("audit", "sbom", run.path, code=2, env={"SOURCE_DATE_EPOCH": "soon"})


def test_a_changed_licence_table_is_noticed(run, tmp_path):
    import shutil
    shutil.copytree(run.path, tmp_path / "run")
    file = tmp_path / "run/corpus/licenses.json"
    file.write_text(file.read_text().replace("GPL-2+", "MIT-0+"))  # of the same length, so that sizes agree
    for verb in (["sbom"], ["croissant"], ["summary", "--eu"]):
        assert "not the file that was signed" in overproof("audit", verb[0], tmp_path / "run", *verb[1:], code=4).stderr


# The EU's summary

def test_eu_summary(run):
    summary = json.loads(overproof("audit", "summary", run.path / "int8", "--eu", "--json").stdout)
    assert "C(2025) 8311" in summary["template"] and summary["lineage_complete"]
    sections = {s["number"]: s for s in summary["sections"]}
    assert set(sections) == {"", "1.1", "1.2", "1.3", "2.1", "2.2.1", "2.2.2", "2.3", "2.4", "2.5", "2.6", "3.1", "3.2", "3.3"}
    answer = lambda number, begin: next(a["answer"] for a in sections[number]["answers"] if a["question"].startswith(begin))
    assert answer("1.1", "Provider name") == "not recorded"
    assert run.roots["teacher"] in answer("1.2", "Model dependencies") and "Apache-2.0" in answer("1.2", "Model dependencies")
    assert answer("1.3", "Training data size").startswith("Less than 1 billion tokens")
    assert answer("2.5", "Was synthetic") == "Yes" and "Tiny teacher" in answer("2.5", "AI model(s)")
    assert {row[1]: row[2] for row in sections["2.1"]["table"]["rows"]} == {"notes": "2", "pages": "3", "perl": "1"}
    for number in ("2.2.1", "2.2.2", "2.3", "2.4", "2.6", "3.1", "3.2"):
        assert all(a["basis"] == "not recorded" for a in sections[number]["answers"])


def test_eu_summary_without_synthetic_data(run):
    answers = lambda s: next(x for x in s["sections"] if x["number"] == "2.5")["answers"]
    teacher = json.loads(overproof("audit", "summary", run.path / "teacher", "--eu", "--json").stdout)
    assert answers(teacher)[0]["answer"].startswith("No: the lineage is complete")
    overproof("audit", "summary", run.path / "corpus", "--eu", code=2)
    overproof("audit", "summary", run.path / "int8", code=2)


def test_eu_summary_with_missing_ancestors_does_not_say_no(run, tmp_path):
    import shutil
    (tmp_path / "run").mkdir()
    shutil.copytree(run.path / "int8", tmp_path / "run/int8")
    summary = json.loads(overproof("audit", "summary", tmp_path / "run/int8", "--eu", "--json").stdout)
    assert not summary["lineage_complete"]
    synthetic = next(x for x in summary["sections"] if x["number"] == "2.5")["answers"]
    assert synthetic[0]["basis"] == "not recorded"


def test_eu_summary_in_markdown_escapes_what_comes_from_files(tmp_path):
    run = Run(tmp_path / "run", documents=[("a/b", "a|<b>", "MIT", "text one"), ("a/held", "plain", "MIT", "text two")])
    text = overproof("audit", "summary", run.path / "int8", "--eu").stdout
    assert "a\\|&lt;b&gt;" in text and "<b>" not in text
    assert "### 2.5 Synthetic data" in text and "*not recorded*" in text


# Differences

def test_diff_of_a_run_with_itself(run):
    assert json.loads(overproof("audit", "diff", run.path, run.path, "--json").stdout)["same"] is True
    lines = overproof("audit", "diff", run.path / "int8", run.path / "int8").stdout.splitlines()
    assert lines[0] == "nothing changed" and all("signed by key" in line for line in lines[1:]) and len(lines) == 3


def test_diff_names_documents_licences_and_inputs(run, changed):
    diff = json.loads(overproof("audit", "diff", run.path, changed.path, "--json").stdout)
    fields = {c["artifact"]: c["fields"] for c in diff["changed"]}
    assert not diff["same"] and not diff["only_in_a"] and not diff["only_in_b"]
    assert fields["corpus"]["documents"] == {"added": ["pages/new.2"], "removed": ["notes/one"], "changed": ["pages/read.2"], "renamed": []}
    assert fields["corpus"]["licenses"]["GPL-3+"] == {"a": None, "b": 1} and fields["corpus"]["licenses"]["CC0-1.0"] == {"a": 1, "b": None}
    assert fields["student"]["inputs"]["corpus"] == {"a": "sha256:" + run.roots["corpus"], "b": "sha256:" + changed.roots["corpus"]}
    assert "signer" in fields["teacher"] and "root" not in fields["teacher"]  # the same bytes under another key
    text = overproof("audit", "diff", run.path, changed.path).stdout
    assert "pages/new.2" in text and "1 added" in text


def test_diff_pairs_two_artifacts_of_different_names(run):
    diff = json.loads(overproof("audit", "diff", run.path / "student", run.path / "int8", "--json").stdout)
    fields = {c["artifact"]: c["fields"] for c in diff["changed"]}["int8"]
    assert fields["name"] == {"a": "student", "b": "int8"} and fields["kind"] == {"a": "distilled-from", "b": "quantized-from"}
    assert fields["config"]["scheme"] == {"a": None, "b": "int8"} and fields["files"]["changed"] == ["config.json", "model.safetensors"]


def test_diff_needs_both_to_hold(run, tmp_path):
    overproof("audit", "diff", run.path, tmp_path / "nowhere", code=5)
