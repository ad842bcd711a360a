"""What we sign, PyPI model-signing verifies; what it signs, we verify. Nothing of ours is used to check ours."""

import base64
import json
import pathlib
import subprocess
import sys

import pytest

import program

FOLDERS_AND_FILES = {
    # Names whose order differs between comparing paths part by part (OMS) and comparing texts.
    "model.safetensors": None,
    "a-b": b"1",
    "a/b": b"2",
    "a.b": b"3",
    "a/ä.txt": b"4",
    "empty": b"",
}


def run(*words, **options):
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, **options)


def overproof(*words, env=None):
    return program.overproof(*words, code=None, env=env)


def model_signing(*words):
    return run(sys.executable, "-m", "model_signing", *words)


def flip_bit(path, byte=0, bit=0):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def tiny_checkpoint(folder):
    """The least that `overproof import` takes, among files with names that are hard to sort."""
    import numpy
    from safetensors.numpy import save_file

    folder.mkdir()
    for name, content in FOLDERS_AND_FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if content is not None:
            path.write_bytes(content)
    save_file({"model.embed_tokens.weight": numpy.ones((4, 4), "float32")}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return folder


def public_key_of(private_pem, file):
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(private_pem.read_bytes(), None)
    file.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return file


def new_key(folder, name, curve):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(getattr(ec, curve)())
    private = folder / f"{name}.pem"
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return private, public_key_of(private, folder / f"{name}.pub")


@pytest.fixture
def artifact(tmp_path):
    """An artifact that our program made and signed, and the public key."""
    key = tmp_path / "keys" / "signing-key.pem"
    made = overproof("import", "--path", tiny_checkpoint(tmp_path / "source"), "--out", tmp_path / "run/teacher", env={"OVERPROOF_KEY": str(key)})
    assert made.returncode == 0, made.stderr
    assert key.stat().st_mode & 0o777 == 0o600
    return tmp_path / "run/teacher", public_key_of(key, tmp_path / "key.pub")


def verified_by_peer(folder, public_key):
    return model_signing("verify", "key", folder, "--signature", folder / "model.sig", "--public_key", public_key)


def payload(bundle):
    return json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))


def test_peer_verifies_ours(artifact):
    folder, public_key = artifact
    result = verified_by_peer(folder, public_key)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("curve", ["SECP256R1", "SECP384R1", "SECP521R1"])
def test_peer_verifies_every_curve(tmp_path, curve):
    private, public = new_key(tmp_path, "key", curve)
    source = tiny_checkpoint(tmp_path / "source")
    made = overproof("import", "--path", source, "--out", tmp_path / "run/teacher", "--key", private)
    assert made.returncode == 0, made.stderr
    result = verified_by_peer(tmp_path / "run/teacher", public)
    assert result.returncode == 0, result.stdout + result.stderr


def test_peer_refuses_a_flipped_bit(artifact):
    folder, public_key = artifact
    flip_bit(folder / "a/b")
    assert verified_by_peer(folder, public_key).returncode != 0
    ours = overproof("audit", "verify", folder)
    assert ours.returncode == 4 and "a/b" in ours.stdout


def test_peer_refuses_an_extra_file(artifact):
    folder, public_key = artifact
    (folder / "extra").write_text("x")
    assert verified_by_peer(folder, public_key).returncode != 0
    ours = overproof("audit", "verify", folder)
    assert ours.returncode == 4 and "extra" in ours.stdout


def test_peer_refuses_a_wrong_key(artifact, tmp_path):
    folder, _ = artifact
    _, other = new_key(tmp_path, "other", "SECP256R1")
    assert verified_by_peer(folder, other).returncode != 0
    assert overproof("audit", "verify", folder, "--public-key", other).returncode == 4


def test_claims_may_grow_without_breaking_the_model_signature(artifact):
    folder, public_key = artifact
    claims = folder / "claims.jsonl"
    claims.write_bytes(claims.read_bytes() * 2)
    assert verified_by_peer(folder, public_key).returncode == 0


def test_our_statement_is_what_the_peer_would_write(artifact, tmp_path):
    folder, _ = artifact
    private, _ = new_key(tmp_path, "theirs", "SECP256R1")
    signature = tmp_path / "theirs.sig"
    signed = model_signing("sign", "key", folder, "--private_key", private, "--signature", signature,
                           "--ignore-paths", folder / "claims.jsonl", "--ignore-paths", folder / "model.sig")
    assert signed.returncode == 0, signed.stdout + signed.stderr
    ours, theirs = (json.loads(f.read_text()) for f in (folder / "model.sig", signature))
    assert set(ours) == set(theirs)
    assert ours["mediaType"] == theirs["mediaType"]
    assert set(ours["verificationMaterial"]) == set(theirs["verificationMaterial"])
    assert set(ours["dsseEnvelope"]) == set(theirs["dsseEnvelope"])
    ours, theirs = payload(ours), payload(theirs)
    for statement in (ours, theirs):
        statement["subject"][0].pop("name")  # informative: theirs is the folder's, ours may be the stage's
        serialization = statement["predicate"]["serialization"]
        serialization["ignore_paths"] = sorted(p for p in serialization["ignore_paths"] if "theirs.sig" not in p)
    assert ours == theirs


@pytest.mark.parametrize("curve", ["SECP256R1", "SECP384R1", "SECP521R1"])
def test_we_verify_the_peer(tmp_path, curve):
    private, public = new_key(tmp_path, "key", curve)
    folder = tiny_checkpoint(tmp_path / "model")
    signed = model_signing("sign", "key", folder, "--private_key", private, "--signature", folder / "model.sig")
    assert signed.returncode == 0, signed.stdout + signed.stderr

    def holds(key):
        return overproof("audit", "verify", folder, "--public-key", key).returncode

    assert holds(public) == 0
    _, other = new_key(tmp_path, "other", curve)
    assert holds(other) == 4
    flip_bit(folder / "a-b")
    assert holds(public) == 4
    flip_bit(folder / "a-b")
    (folder / "a/extra").write_text("x")
    assert holds(public) == 4
    (folder / "a/extra").unlink()
    flip_bit(folder / "model.sig", byte=400, bit=1)
    assert holds(public) == 4


def test_lineage_is_a_valid_in_toto_statement(artifact):
    from in_toto_attestation.v1.statement import Statement
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2

    folder, public_key = artifact
    envelope = json.loads((folder / "claims.jsonl").read_text())
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    statement = json.loads(base64.b64decode(envelope["payload"]))
    message = json_format.ParseDict(statement, statement_pb2.Statement())  # refuses unknown fields
    Statement.copy_from_pb(message).validate()

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    raw = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(raw), raw)
    key = serialization.load_pem_public_key(pathlib.Path(public_key).read_bytes())
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), encoded, ec.ECDSA(hashes.SHA256()))
    assert statement["subject"][0]["digest"] == payload(json.loads((folder / "model.sig").read_text()))["subject"][0]["digest"]
