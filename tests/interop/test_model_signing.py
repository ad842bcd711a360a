"""OpenSSF Model Signing bundles on every curve: PyPI model-signing verifies them and notices one flipped bit anywhere; sigstore's own classes
read them; and they have exactly the fields that the specification's version 1.0 names (https://github.com/ossf/model-signing-spec)."""
import base64
import copy
import json
import subprocess
import sys

import pytest
from program import overproof
from test_provenance import flip_bit, new_key, tiny_checkpoint

CURVES = ["SECP256R1", "SECP384R1", "SECP521R1"]

# The specification's bundle, statement and predicate for the method "key", restated.
HEX = {"type": "string", "pattern": "^[0-9a-f]+$"}
TEXT = {"type": "string", "minLength": 1}


def closed(required, optional=None):
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required), "additionalProperties": False}


BUNDLE = closed({
    "mediaType": {"const": "application/vnd.dev.sigstore.bundle.v0.3+json"},
    "verificationMaterial": closed({"publicKey": closed({"hint": HEX}), "tlogEntries": {"type": "array", "maxItems": 0}}),
    "dsseEnvelope": closed({
        "payload": TEXT, "payloadType": {"const": "application/vnd.in-toto+json"},
        "signatures": {"type": "array", "minItems": 1, "maxItems": 1, "items": closed({"sig": TEXT}, {"keyid": {"type": ["string", "null"]}})}}),
})
STATEMENT = closed({
    "_type": {"const": "https://in-toto.io/Statement/v1"},
    "subject": {"type": "array", "minItems": 1, "maxItems": 1, "items": closed({"name": TEXT, "digest": closed({"sha256": HEX})})},
    "predicateType": {"const": "https://model_signing/signature/v1.0"},
    "predicate": closed({
        "serialization": closed({"method": {"const": "files"}, "hash_type": {"const": "sha256"}, "allow_symlinks": {"type": "boolean"}},
                                {"ignore_paths": {"type": "array", "items": TEXT}}),
        "resources": {"type": "array", "items": closed({"name": TEXT, "algorithm": {"const": "sha256"}, "digest": {**HEX, "minLength": 64, "maxLength": 64}})}}),
})


def payload(bundle):
    return json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))


def faults(bundle):
    from jsonschema import Draft202012Validator
    found = [e.message for e in Draft202012Validator(BUNDLE).iter_errors(bundle)]
    return found or [e.message for e in Draft202012Validator(STATEMENT).iter_errors(payload(bundle))]


@pytest.fixture(scope="module", params=CURVES)
def signed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    private, public = new_key(folder, "key", request.param)
    overproof("import", "--path", tiny_checkpoint(folder / "source"), "--out", folder / "run/teacher", "--key", private)
    return folder / "run/teacher", public


def verify(folder, public):
    """As `model_signing verify key` does, without starting an interpreter each time."""
    import model_signing
    ignored = [folder / n for n in ("model.sig", "claims.jsonl")]
    model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public).set_hashing_config(
        model_signing.hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=True)).verify(folder, folder / "model.sig")


def test_the_command_line_of_the_peer_verifies(signed):
    folder, public = signed
    done = subprocess.run([sys.executable, "-m", "model_signing", "verify", "key", folder, "--signature", folder / "model.sig", "--public_key", public],
                          capture_output=True, text=True)
    assert done.returncode == 0 and "Verification succeeded" in done.stdout, done.stderr
    verify(folder, public)


def test_one_flipped_bit_is_refused(signed):
    folder, public = signed
    bundle = json.loads((folder / "model.sig").read_text())

    def flipped(text, at, bit):
        raw = bytearray(base64.b64decode(text))
        raw[at] ^= 1 << bit
        return base64.b64encode(raw).decode()

    raw = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    spoilt = []
    for at in (raw.index(b'"digest":"') + 10, raw.index(b'"name":"') + 8, len(raw) - 20):
        for bit in (0, 1):
            changed = copy.deepcopy(bundle)
            changed["dsseEnvelope"]["payload"] = flipped(bundle["dsseEnvelope"]["payload"], at, bit)
            spoilt.append(changed)
    signature = bundle["dsseEnvelope"]["signatures"][0]["sig"]
    for at in (8, len(base64.b64decode(signature)) - 1):
        changed = copy.deepcopy(bundle)
        changed["dsseEnvelope"]["signatures"][0]["sig"] = flipped(signature, at, 3)
        spoilt.append(changed)
    original = (folder / "model.sig").read_text()
    try:
        for changed in spoilt:
            (folder / "model.sig").write_text(json.dumps(changed))
            with pytest.raises(Exception):
                verify(folder, public)
            overproof("audit", "verify", folder, "--public-key", public, code=4)
    finally:
        (folder / "model.sig").write_text(original)
    for name in ("a-b", "a/b", "model.safetensors"):
        for bit in (0, 7):
            flip_bit(folder / name, bit=bit)
            with pytest.raises(Exception):
                verify(folder, public)
            flip_bit(folder / name, bit=bit)
    verify(folder, public)


def test_another_key_of_the_same_curve_is_refused(signed, tmp_path):
    folder, public = signed
    curve = next(c for c in CURVES if c in str(folder))
    _, other = new_key(tmp_path, "other", curve)
    with pytest.raises(Exception):
        verify(folder, other)


def test_sigstore_reads_the_bundle(signed):
    from sigstore_models.bundle import v1 as bundle_pb
    folder, _ = signed
    text = json.loads((folder / "model.sig").read_text())
    bundle = bundle_pb.Bundle.from_dict(text)
    assert bundle.dsse_envelope.payload_type == "application/vnd.in-toto+json"
    assert bundle.verification_material.public_key.hint == text["verificationMaterial"]["publicKey"]["hint"]
    for spoil in (lambda b: b.pop("verificationMaterial"), lambda b: b["dsseEnvelope"].pop("signatures")):
        changed = copy.deepcopy(text)
        spoil(changed)
        with pytest.raises(Exception):
            bundle_pb.Bundle.from_dict(changed)


def test_the_bundle_has_the_fields_of_the_specification_and_no_others(signed):
    folder, _ = signed
    bundle = json.loads((folder / "model.sig").read_text())
    assert faults(bundle) == []
    for spoil in (lambda b: b.update(more=1), lambda b: b["dsseEnvelope"].update(payloadType="text/plain"),
                  lambda b: b["verificationMaterial"].update(publicKey={}), lambda b: b["dsseEnvelope"]["signatures"].clear()):
        changed = copy.deepcopy(bundle)
        spoil(changed)
        assert faults(changed)
    for spoil in (lambda s: s["subject"].append(s["subject"][0]), lambda s: s["predicate"].update(note="x"),
                  lambda s: s["predicate"]["serialization"].pop("allow_symlinks"), lambda s: s["predicate"]["resources"][0].update(digest="XY"),
                  lambda s: s.update(predicateType="https://model_signing/Digests/v0.1")):
        changed, statement = copy.deepcopy(bundle), payload(bundle)
        spoil(statement)
        changed["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
        assert faults(changed)


def test_every_kind_of_artifact_verifies(tmp_path):
    """A run as other programs may write one: nested files, empty ones, many; signed without the program, verified by the peer and by us."""
    from sealed_run import Run, public_pem
    run = Run(tmp_path / "run")
    public = tmp_path / "key.pub"
    public.write_bytes(public_pem(run.key))
    for name in run.roots:
        verify(run.path / name, public)
        assert faults(json.loads((run.path / name / "model.sig").read_text())) == []
    (run.path / "corpus/texts/more.jsonl").write_text("")
    with pytest.raises(Exception):
        verify(run.path / "corpus", public)
