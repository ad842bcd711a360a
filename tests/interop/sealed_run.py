"""Makes small run folders as docs/architecture.md describes artifacts, without the program: OpenSSF Model Signing bundles, DSSE and
in-toto by hand, signed with `cryptography`. So tests choose any lineage, and what they read was not written by what they test."""
import base64
import hashlib
import json
import os
import struct

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
IGNORED = [".git", ".gitattributes", ".github", ".gitignore", "claims.jsonl", "model.sig"]


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def public_pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def write_private(key, file):
    file.touch(mode=0o600)
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return file


def envelope(statement, key, keyid):
    payload = json.dumps(statement, sort_keys=True, ensure_ascii=False).encode()
    signed = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)
    signature = {"keyid": keyid, "sig": base64.b64encode(key.sign(signed, ec.ECDSA(hashes.SHA256()))).decode()}
    return {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD, "signatures": [signature]}


def digests(folder):
    """(name, bytes, digest) of every file but the signatures, in the order of OMS: part by part."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).parts[0] not in IGNORED]
    names = sorted(p.relative_to(folder).as_posix() for p in files)
    names.sort(key=lambda n: n.split("/"))
    return [(n, (folder / n).stat().st_size, hashlib.sha256((folder / n).read_bytes()).hexdigest()) for n in names]


def order_key(corpus_root, seed):
    """data/order.h, without a beacon."""
    return hashlib.sha256(b"overproof training order v1" + bytes.fromhex(corpus_root) + struct.pack("<Q", seed)).hexdigest()


def root_of(files):
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for _, _, digest in files)).hexdigest()


def seal(folder, kind, stage, key, inputs=None, config=None, metrics=None):
    """`inputs`: slot -> (artifact's name, root, SHA-256 of its statement). Returns root and SHA-256 of the statement."""
    files = digests(folder)
    root = root_of(files)
    pem = public_pem(key)
    hint = hashlib.sha256(pem).hexdigest()
    metrics = metrics or {}
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": folder.name, "digest": {"sha256": root}}]
        + [{"name": n, "digest": {"sha256": d}, "annotations": {"bytes": b}} for n, b, d in files],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": f"urn:overproof:stage:{stage}:v1",
                "externalParameters": config or {},
                "internalParameters": {"stageKey": hashlib.sha256(f"{folder.name}{root}".encode()).hexdigest()},
                "resolvedDependencies": [{"name": slot, "digest": {"sha256": r}, "annotations": {"artifact": name, "statementSha256": s}}
                                         for slot, (name, r, s) in sorted((inputs or {}).items())],
            },
            "runDetails": {
                "builder": {"id": "urn:overproof:builder", "version": {"overproof": "0.1.0", "compiler": "12.2.0"},
                            "builderDependencies": [{"name": "signing-key", "mediaType": "application/x-pem-file",
                                                     "digest": {"sha256": hint}, "content": base64.b64encode(pem).decode()}]},
                "byproducts": [{"name": "metrics", "annotations": metrics,
                                "digest": {"sha256": hashlib.sha256(json.dumps(metrics, separators=(",", ":"), sort_keys=True).encode()).hexdigest()}}],
            },
            "overproof_lineage": {"formatVersion": 2, "kind": kind, "stage": stage},
        },
    }
    claim = envelope(statement, key, hint)
    (folder / "claims.jsonl").write_text(json.dumps(claim) + "\n")
    signature = {
        "_type": STATEMENT,
        "subject": [{"name": folder.name, "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": IGNORED},
                      "resources": [{"name": n, "algorithm": "sha256", "digest": d} for n, _, d in files]},
    }
    (folder / "model.sig").write_text(json.dumps({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": envelope(signature, key, "")}))
    return root, hashlib.sha256(base64.b64decode(claim["payload"])).hexdigest()


def write_safetensors(file, tensors, metadata=None):
    """`tensors`: name -> (dtype, shape, bytes)."""
    header, at = {"__metadata__": metadata or {}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def write_corpus(folder, documents, window_length=4):
    """`documents`: (name, source, license, text), written as described in data/corpus.h; every byte is a token."""
    (folder / "texts").mkdir(parents=True)
    table, streams, by_source = [], {"train": b"", "held_out": b""}, {}
    tallies = {"licenses": {}, "sources": {}, "license_rules": {}}
    for name, source, license_name, text in sorted(documents, key=lambda d: (d[1], d[0])):
        raw = text.encode()
        split = "held_out" if "held" in name else "train"
        digest = hashlib.sha256(raw).hexdigest()
        table.append({"digest": digest, "name": name, "source": source, "license": license_name, "license_rule": "given", "bytes": len(raw),
                      "split": split, "first_token": len(streams[split]) // 2, "tokens": len(raw) + 1})
        streams[split] += b"".join(struct.pack("<H", b) for b in raw + b"\0")
        by_source.setdefault(source, []).append({"name": name, "digest": digest, "text": text})
        for group, key in (("licenses", license_name), ("sources", source), ("license_rules", "given")):
            tally = tallies[group].setdefault(key, {"documents": 0, "bytes": 0, "tokens": 0})
            tally["documents"] += 1
            tally["bytes"] += len(raw)
            tally["tokens"] += len(raw) + 1
    (folder / "documents.jsonl").write_text("".join(json.dumps(r, sort_keys=True) + "\n" for r in table))
    (folder / "licenses.json").write_text(json.dumps(tallies))
    for source, records in by_source.items():
        (folder / "texts" / f"{source}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    write_safetensors(folder / "tokens.safetensors",
                      {s: ("U16", [len(b) // 2], b) for s, b in streams.items()},
                      {"vocab_size": "256", "window_length": str(window_length), "separator": "0", "tokenizer_probe": "0" * 64})
    return table


DOCUMENTS = [
    ("pages/read.2", "pages", "Linux-man-pages-copyleft", "read a file"),
    ("pages/write.2", "pages", "GPL-2+", "write a file"),
    ("pages/held.2", "pages", "GPL-2+", "hold a lock"),
    ("perl/op.1", "perl", "GPL-1+ or Artistic", "an operator"),
    ("notes/one", "notes", "CC0-1.0", "a note"),
    ("notes/odd", "notes", "RRA-KEEP-THIS-NOTICE", "an odd notice"),
]


class Run:
    """teacher -> corpus, soft targets, student, int8, evaluation. `teacher_license` and `documents` are what policies look at."""

    def __init__(self, path, teacher_license="Apache-2.0", documents=DOCUMENTS, key=None, dense=True):
        self.path, self.key = path, key or new_key()
        self.roots, self.statements = {}, {}
        teacher = self.model("teacher", b"t" * 300)
        self.seal("teacher", "imported", "import", {}, {"license": teacher_license, "name": "Tiny teacher", "sha256": "", "path-sha256": "0" * 64},
                  {"model_type": "llama", "parameters": 300})
        write_corpus(path / "corpus", documents)
        self.seal("corpus", "corpus-of", "corpus", {"tokenizer": "teacher"}, {"window-length": 4, "held-out": 0.2, "source-sha256": "1" * 64},
                  {"duplicates": 1, "too_short": 2, "too_long": 0})
        os.makedirs(path / "soft-targets")
        write_safetensors(path / "soft-targets/targets.safetensors", {"block_offsets": ("I64", [2], b"\0" * 16)},
                          {"order_key": order_key(self.roots["corpus"], 7), "seed": "7", "teacher_root": self.roots["teacher"], "corpus_root": self.roots["corpus"], "window_length": "4"})
        self.seal("soft-targets", "taught", "teach", {"teacher": "teacher", "corpus": "corpus"}, {"draws": 26, "mode": "sample", "tokens": 16})
        # `dense`: the student is carved from the teacher; else its weights come from a seed, and only the answers are the teacher's.
        self.model("student-init", b"i" * 200)
        if dense:
            (path / "statistics").mkdir()
            (path / "statistics/statistics.json").write_text("{}")
            self.seal("statistics", "observed", "observe", {"teacher": "teacher", "corpus": "corpus"}, {"tokens": 8})
            self.seal("student-init", "carved-from", "student", {"teacher": "teacher", "statistics": "statistics"}, {"experts": 4})
        else:
            self.seal("student-init", "seeded", "tiny-teacher", {}, {"seed": 1})
        self.model("student", b"s" * 200)
        self.seal("student", "distilled-from", "distill", {"student": "student-init", "targets": "soft-targets", "corpus": "corpus"},
                  {"steps": 3, "batch-size": 1, "learning-rate": 0.001}, {"loss": 1.25})
        self.model("int8", b"q" * 100)
        self.seal("int8", "quantized-from", "quantize", {"model": "student"}, {"scheme": "int8"})
        (path / "evaluation").mkdir()
        (path / "evaluation/evaluation.json").write_text(json.dumps({"tokens": 32, "models": [
            {"name": "int8", "perplexity": 20.25, "kl_mean": 0.41, "top1_agreement": 0.71, "bytes": 100}]}))
        self.seal("evaluation", "evaluated", "evaluate", {"teacher": "teacher", "corpus": "corpus", "int8": "int8"}, {"tokens": 32},
                  json.loads((path / "evaluation/evaluation.json").read_text()))

    def model(self, name, weights):
        folder = self.path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "name": name}))
        write_safetensors(folder / "model.safetensors", {"w": ("U8", [len(weights)], weights)})
        return folder

    def seal(self, name, kind, stage, inputs, config=None, metrics=None):
        bound = {slot: (artifact, self.roots[artifact], self.statements[artifact]) for slot, artifact in inputs.items()}
        self.roots[name], self.statements[name] = seal(self.path / name, kind, stage, self.key, bound, config, metrics)
