"""Keys as people hold them: encrypted, with a program that signs, replaced by newer ones. PyPI model-signing and openssl judge the
signatures; keys made by `cryptography` and openssl are what we must take, or refuse with the reason."""

import json
import os
import pty
import subprocess
import sys
import time

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

OVERPROOF = os.environ["OVERPROOF"]


def run(*words, env=None, **options):
    clean = {k: v for k, v in os.environ.items() if k != "OVERPROOF_KEY_PASSPHRASE"}
    # A session of its own has no terminal to ask on.
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, stdin=subprocess.DEVNULL, start_new_session=True,
                          env={**clean, **(env or {})}, **options)


def overproof(*words, env=None):
    return run(OVERPROOF, *words, env=env)


def write_key(file, key, passphrase=None, form="PKCS8"):
    how = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    file.touch(mode=0o600)
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), how))
    return file


def write_public(file, key):
    file.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return file


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(os.urandom(5_000_000))
    (folder / "sub/empty").write_bytes(b"")
    (folder / "config.json").write_text("{}")
    return folder


def verified_by_peer(folder, public):
    return run(sys.executable, "-m", "model_signing", "verify", "key", folder, "--signature", folder / "model.sig", "--public_key", public).returncode == 0


def test_peer_verifies_an_encrypted_p384_key(model, tmp_path):
    words = tmp_path / "words"
    words.touch(mode=0o600)
    words.write_text("correct horse\n")
    key = tmp_path / "k.pem"
    made = overproof("key", "new", "--curve", "p384", "--encrypt", "--out", key, "--key-passphrase-file", words, "--json")
    assert made.returncode == 0, made.stderr
    assert key.stat().st_mode & 0o777 == 0o600
    theirs = serialization.load_pem_private_key(key.read_bytes(), b"correct horse")  # an independent reader opens it
    assert isinstance(theirs.curve, ec.SECP384R1)
    public = write_public(tmp_path / "k.pub", theirs)
    assert json.loads(made.stdout)["public_key"] == public.read_text()
    shown = overproof("key", "show", "--key", key, "--key-passphrase-file", words, "--pem")
    assert shown.stdout == public.read_text()

    signed = overproof("sign", model, "--key", key, env={"OVERPROOF_KEY_PASSPHRASE": "correct horse"})
    assert signed.returncode == 0, signed.stderr
    assert verified_by_peer(model, public)
    assert overproof("audit", "verify", model, "--public-key", public).returncode == 0
    (model / "config.json").write_text("{ }")
    assert not verified_by_peer(model, public)
    assert overproof("audit", "verify", model, "--public-key", public).returncode == 4

    before = (model / "model.sig").read_bytes()
    for env, said in (({}, "is encrypted"), ({"OVERPROOF_KEY_PASSPHRASE": "correct Horse"}, "passphrase is wrong")):
        refused = overproof("sign", model, "--key", key, env=env)
        assert refused.returncode == 2 and said in refused.stderr
    assert (model / "model.sig").read_bytes() == before
    again = overproof("key", "new", "--out", key)
    assert again.returncode == 2 and "never overwritten" in again.stderr


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_keys_encrypted_by_others_open(tmp_path, form):
    theirs = ec.generate_private_key(ec.SECP256R1())
    key = write_key(tmp_path / "k.pem", theirs, b"pass", form)
    shown = overproof("key", "show", "--key", key, "--pem", env={"OVERPROOF_KEY_PASSPHRASE": "pass"})
    assert shown.stdout == write_public(tmp_path / "k.pub", theirs).read_text(), shown.stderr
    assert overproof("key", "show", "--key", key, env={"OVERPROOF_KEY_PASSPHRASE": "paSs"}).returncode == 2


def test_the_passphrase_is_asked_on_the_terminal_without_echo(tmp_path):
    theirs = ec.generate_private_key(ec.SECP256R1())
    key = write_key(tmp_path / "k.pem", theirs, b"on the terminal")
    child, terminal = pty.fork()
    if child == 0:
        os.environ.pop("OVERPROOF_KEY_PASSPHRASE", None)
        os.execv(OVERPROOF, [OVERPROOF, "key", "show", "--key", str(key), "--pem"])
    said, deadline = b"", time.monotonic() + 60
    answered = False
    while time.monotonic() < deadline:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux: the other side is gone
            break
        if not part:
            break
        said += part
        if not answered and b"Passphrase of " in said and said.endswith(b": "):
            os.write(terminal, b"on the terminal\n")
            answered = True
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, said
    assert b"BEGIN PUBLIC KEY" in said and b"on the terminal" not in said


def test_weak_and_foreign_keys_are_refused_with_the_reason(model, tmp_path):
    kinds = {
        "P-224": (ec.generate_private_key(ec.SECP224R1()), "too weak"),
        "secp256k1": (ec.generate_private_key(ec.SECP256K1()), "no other curve"),
        "RSA": (rsa.generate_private_key(public_exponent=65537, key_size=2048), "RSA"),
        "Ed25519": (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
    }
    for name, (key, reason) in kinds.items():
        refused = overproof("sign", model, "--key", write_key(tmp_path / f"{name}.pem", key))
        assert refused.returncode == 3 and reason in refused.stderr and "P-256" in refused.stderr, (name, refused.stderr)
        assert overproof("audit", "verify", model, "--public-key", write_public(tmp_path / f"{name}.pub", key)).returncode == 3
    assert not (model / "model.sig").exists()


def test_keys_that_are_missing_or_open_to_others_are_refused(model, tmp_path):
    missing = overproof("key", "show", "--key", tmp_path / "none.pem")
    assert missing.returncode == 5 and not (tmp_path / "none.pem").exists()
    key = write_key(tmp_path / "k.pem", ec.generate_private_key(ec.SECP256R1()))
    key.chmod(0o644)
    refused = overproof("sign", model, "--key", key)
    assert refused.returncode == 4 and "chmod 600" in refused.stderr
    refused = overproof("sign", model, "--key", "pkcs11:token=none;object=none")
    assert refused.returncode == 2 and "pkcs11" in refused.stderr


@pytest.mark.parametrize("curve, digest", [("SECP256R1", "sha256"), ("SECP384R1", "sha384"), ("SECP521R1", "sha512")])
def test_peer_verifies_what_an_external_signer_signed(model, tmp_path, curve, digest):
    theirs = ec.generate_private_key(getattr(ec, curve)())
    (tmp_path / "with space").mkdir()
    private, public = write_key(tmp_path / "with space" / "k.pem", theirs), write_public(tmp_path / "k.pub", theirs)
    signed = overproof("sign", model, "--sign-with", f"openssl dgst -{digest} -sign '{private}'", "--public-key-of", public)
    assert signed.returncode == 0, signed.stderr
    assert verified_by_peer(model, public)
    other = write_public(tmp_path / "other.pub", ec.generate_private_key(getattr(ec, curve)()))
    before = (model / "model.sig").read_bytes()
    refused = overproof("sign", model, "--sign-with", f"openssl dgst -{digest} -sign '{private}'", "--public-key-of", other)
    assert refused.returncode == 4 and "no signature" in refused.stderr
    slow = overproof("sign", model, "--sign-with", "sleep 60", "--sign-timeout", "1", "--public-key-of", public)
    assert slow.returncode == 4 and "within 1 s" in slow.stderr
    assert (model / "model.sig").read_bytes() == before


def test_a_stage_signs_with_an_external_signer(tmp_path):
    theirs = ec.generate_private_key(ec.SECP256R1())
    private, public = write_key(tmp_path / "k.pem", theirs), write_public(tmp_path / "k.pub", theirs)
    import numpy
    from safetensors.numpy import save_file

    source = tmp_path / "source"
    source.mkdir()
    save_file({"model.embed_tokens.weight": numpy.ones((4, 4), "float32")}, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    made = overproof("import", "--path", source, "--out", tmp_path / "run/teacher", "--sign-with", f"openssl dgst -sha256 -sign {private}",
                     "--public-key-of", public)
    assert made.returncode == 0, made.stderr
    assert verified_by_peer(tmp_path / "run/teacher", public)
    assert overproof("audit", "verify", tmp_path / "run/teacher", "--public-key", public).returncode == 0


def test_a_rotation_is_an_in_toto_statement_and_leads_the_verifier_on(model, tmp_path):
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement
    import base64

    keys = [ec.generate_private_key(c()) for c in (ec.SECP256R1, ec.SECP384R1, ec.SECP256R1)]
    private = [write_key(tmp_path / f"{i}.pem", k) for i, k in enumerate(keys)]
    public = [write_public(tmp_path / f"{i}.pub", k) for i, k in enumerate(keys)]
    rotations = []
    for i in (0, 1):
        rotations.append(tmp_path / f"rotation-{i}.json")
        made = overproof("key", "rotate", "--key", private[i], "--to", private[i + 1], "--out", rotations[-1])
        assert made.returncode == 0, made.stderr

    envelope = json.loads(rotations[0].read_text())
    payload = base64.b64decode(envelope["payload"])
    message = json_format.ParseDict(json.loads(payload), statement_pb2.Statement())
    Statement.copy_from_pb(message).validate()
    encoded = b"DSSEv1 %d %s %d %s" % (len(envelope["payloadType"]), envelope["payloadType"].encode(), len(payload), payload)
    from cryptography.hazmat.primitives import hashes

    keys[0].public_key().verify(base64.b64decode(envelope["signatures"][0]["sig"]), encoded, ec.ECDSA(hashes.SHA256()))

    assert overproof("sign", model, "--key", private[2]).returncode == 0
    assert overproof("audit", "verify", model, "--public-key", public[0]).returncode == 4
    both = f"{rotations[1]},{rotations[0]}"
    led = overproof("audit", "verify", model, "--public-key", public[0], "--rotations", both)
    assert led.returncode == 0, led.stdout + led.stderr
    assert overproof("audit", "verify", model, "--public-key", public[0], "--rotations", rotations[1]).returncode == 4
    assert overproof("audit", "verify", model, "--public-key", public[2], "--rotations", both).returncode == 4
    assert overproof("audit", "verify", model, "--rotations", both).returncode == 2
    (model / "config.json").write_text("[]")
    assert overproof("audit", "verify", model, "--public-key", public[0], "--rotations", both).returncode == 4


def test_signing_again_by_a_cache_gives_what_the_peer_verifies(model, tmp_path):
    theirs = ec.generate_private_key(ec.SECP256R1())
    private, public = write_key(tmp_path / "k.pem", theirs), write_public(tmp_path / "k.pub", theirs)
    weights = model / "weights.safetensors"

    def sign(*more):
        done = overproof("sign", model, "--key", private, "--cache", tmp_path / "cache.json", "--json", *more)
        assert done.returncode == 0, done.stderr
        assert verified_by_peer(model, public)
        return json.loads(done.stdout)

    assert sign()["bytes_hashed"] == 5_000_002
    for at in (0, 2_500_000, 4_999_999):
        times = weights.stat()
        with open(weights, "r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))
        os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
        # What was changed is read, whatever its age; the other files may be old enough to be trusted on a slow machine.
        files = [file for file in model.rglob("*") if file.is_file() and file.name not in ("model.sig", "claims.jsonl")]
        assert sign("--trust-change-time")["files_not_read"] < len(files)
    weights.write_bytes(weights.read_bytes()[:4_000_000])
    sign()
    with open(weights, "ab") as file:
        file.write(os.urandom(3_000_000))
    sign()
    cache = tmp_path / "cache.json"
    cache.write_bytes(cache.read_bytes()[:100])
    assert "note" in sign()
