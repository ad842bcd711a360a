"""What a corpus commits to, checked by others: roots by pymerkle, notes by `cryptography`, tiles and proofs by readers written here from the
specifications (RFC 9162, C2SP signed-note, tlog-checkpoint, tlog-tiles). Nothing of ours is used to check ours."""

import base64
import hashlib
import json

import pytest

import program

DOCUMENTS = 600


def overproof(*words, key, cwd=None):
    return program.overproof(*words, code=None, cwd=cwd, env={"OVERPROOF_KEY": str(key)})


def text_of(i):
    return f"document {i}: " + "".join(f"word{(i * 31 + w) % 50} " for w in range(12)) + "\n"


def sha256(data):
    return hashlib.sha256(data).digest()


def make_corpus(folder, key, documents, *options, pack=lambda i: f"pack{i % 3}"):
    from tokenizers import Tokenizer, models, pre_tokenizers, decoders

    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["<|endoftext|>"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer/tokenizer.json"))
    source = folder / "source"
    source.mkdir(exist_ok=True)
    records = []
    for i in range(documents):
        (source / f"{i}.txt").write_text(text_of(i))
        records.append(json.dumps({"name": f"{i}.txt", "license": "CC0-1.0", "source": pack(i)}))
    (source / "documents.jsonl").write_text("\n".join(records) + "\n")
    out = folder / f"run{len(list(folder.iterdir()))}" / "corpus"
    made = overproof("corpus", "--source", source, "--tokenizer", folder / "tokenizer", "--out", out, "--quiet", *options, key=key)
    assert made.returncode == 0, made.stderr
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commitment")
    key = folder / "keys/signing-key.pem"
    return folder, key, make_corpus(folder, key, DOCUMENTS)


def table_digests(corpus):
    return [bytes.fromhex(json.loads(line)["digest"]) for line in (corpus / "documents.jsonl").read_text().splitlines()]


def pymerkle_tree(leaves):
    from pymerkle import InmemoryTree

    tree = InmemoryTree(algorithm="sha256", disable_security=False)
    for leaf in leaves:
        tree.append_entry(leaf)
    return tree


def pymerkle_root(leaves):
    return pymerkle_tree(leaves).get_root().hex()


def leaf_hash(data):
    return sha256(b"\0" + data)


def node_hash(left, right):
    return sha256(b"\1" + left + right)


def root_from_path(leaf, index, size, path):
    """RFC 9162, section 2.1.3.2."""
    assert 0 <= index < size
    fn, sn, r = index, size - 1, leaf
    for p in path:
        assert sn != 0
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    assert sn == 0
    return r


def roots_from_consistency(first, second, first_root, path):
    """RFC 9162, section 2.1.4.2: the roots of the smaller and of the larger tree that the path leads to."""
    assert 0 < first <= second
    if first == second:
        assert not path
        return first_root, first_root
    nodes = [first_root, *path] if first & (first - 1) == 0 else list(path)
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = nodes[0]
    for c in nodes[1:]:
        assert sn != 0
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    assert sn == 0
    return fr, sr


def open_checkpoint(note, vkey):
    """The lines of a checkpoint whose signature holds."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    name, key_id, encoded = vkey.strip().split("+", 2)
    key = base64.b64decode(encoded, validate=True)
    assert key[0] == 1 and len(key) == 33
    assert sha256(name.encode() + b"\n" + key)[:4].hex() == key_id
    text, signatures = note.rsplit("\n\n", 1)
    text += "\n"
    lines = [line for line in signatures.splitlines() if line.startswith(f"— {name} ")]
    assert len(lines) == 1
    signature = base64.b64decode(lines[0].rsplit(" ", 1)[1], validate=True)
    assert signature[:4].hex() == key_id
    Ed25519PublicKey.from_public_bytes(key[1:]).verify(signature[4:], text.encode())
    origin, size, root = text.splitlines()
    return origin, int(size), base64.b64decode(root, validate=True)


def check_binding(binding, corpus_root, tree, size, root):
    """The corpus root is a digest over the digests of its files; the first is commitment.json, which holds the tree's root."""
    files = [sha256(binding["commitment"].encode()), *map(bytes.fromhex, binding["files"])]
    assert sha256(b"".join(files)).hex() == corpus_root
    committed = json.loads(binding["commitment"])["documents" if tree.startswith("documents") else "sorted"]
    assert committed == {"size": size, "root": root.hex()}


def check_proof(proof, vkey, digest, corpus_root):
    """Whether the document is in the corpus; anything wrong is an AssertionError or a bad signature."""
    assert proof["format"] == "urn:overproof:corpus-proof:v2" and proof["document_sha256"] == digest.hex()
    origin, size, root = open_checkpoint(proof["checkpoint"], vkey)
    name, corpus, tree = origin.rsplit("/", 2)
    assert name == vkey.split("+")[0] and corpus == corpus_root
    check_binding(proof["corpus"], corpus_root, tree, size, root)
    value = digest
    if tree == "documents-salted" or tree.startswith("sorted-"):
        salt = bytes.fromhex(proof["salt"])
        if tree.startswith("sorted-"):
            assert sha256(salt).hex() == tree[len("sorted-"):]
        value = sha256(b"overproof salted leaf v1" + salt + digest)
    assert tree.startswith(proof["tree"])
    leaves = proof["leaves"]
    if proof["kind"] == "presence":
        (leaf,) = leaves
        assert root_from_path(leaf_hash(value), leaf["index"], size, map(bytes.fromhex, leaf["path"])) == root
        return True
    assert proof["tree"] == "sorted"
    for leaf in leaves:
        assert root_from_path(leaf_hash(bytes.fromhex(leaf["value"])), leaf["index"], size, map(bytes.fromhex, leaf["path"])) == root
    values = [bytes.fromhex(leaf["value"]) for leaf in leaves]
    if len(leaves) == 2:
        assert leaves[0]["index"] + 1 == leaves[1]["index"] and values[0] < value < values[1]
    else:
        (leaf,) = leaves
        assert (leaf["index"] == 0 and value < values[0]) or (leaf["index"] == size - 1 and values[0] < value)
    return False


def root_of(corpus):
    return json.loads(base64.b64decode(json.loads((corpus / "claims.jsonl").read_text().splitlines()[0])["payload"]))["subject"][0]["digest"]["sha256"]


def note_key(key):
    return (key.parent / (key.name + ".note.pub")).read_text()


def prove(corpus, key, document, out, *options):
    done = overproof("audit", "prove", corpus, "--document", document, "--out", out, *options, key=key)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.mark.parametrize("documents", [1, 2, 255, 256, 257])
def test_roots_equal_pymerkle(tmp_path, documents):
    corpus = make_corpus(tmp_path, tmp_path / "key.pem", documents)
    digests = table_digests(corpus)
    assert len(digests) == documents
    roots = json.loads((corpus / "commitment.json").read_text())
    assert roots["documents"] == {"size": documents, "root": pymerkle_root(digests)}
    assert roots["sorted"] == {"size": documents, "root": pymerkle_root(sorted(digests))}


def test_proofs_hold_for_an_independent_reader(made, tmp_path):
    folder, key, corpus = made
    seen = {True: 0, False: 0}
    for i in [0, 1, 255, 256, 599, 600, 601, 602, 777]:
        for tree in ["documents", "sorted"]:
            digest = sha256(text_of(i).encode())
            proof = prove(corpus, key, digest.hex(), tmp_path / "proof.json", "--tree", tree)
            present = check_proof(proof, note_key(key), digest, root_of(corpus))
            assert present == (i < DOCUMENTS)
            seen[present] += 1
    assert seen == {True: 10, False: 8}
    for digest in [bytes(32), b"\xff" * 32]:  # before the first and after the last
        assert not check_proof(prove(corpus, key, digest.hex(), tmp_path / "proof.json"), note_key(key), digest, root_of(corpus))


def test_a_proof_is_checked_without_the_run(made, tmp_path):
    folder, key, corpus = made
    prove(corpus, key, sha256(text_of(5).encode()).hex(), tmp_path / "proof.json")
    (tmp_path / "mine.txt").write_text(text_of(5))
    (tmp_path / "other.txt").write_text(text_of(6))
    check = ["audit", "check-proof", "proof.json", "--checkpoint-key", note_key(key).strip(), "--json"]
    holds = overproof(*check, "--document", "mine.txt", "--corpus", root_of(corpus), key=tmp_path / "none.pem", cwd=tmp_path)
    assert holds.returncode == 0, holds.stderr
    said = json.loads(holds.stdout)
    assert said["holds"] and said["kind"] == "presence" and said["corpus"] == "sha256:" + root_of(corpus) and said["documents"] == DOCUMENTS
    assert not (tmp_path / "none.pem").exists()
    assert overproof(*check, "--document", "other.txt", key=key, cwd=tmp_path).returncode == 4
    assert overproof(*check, "--corpus", "0" * 64, key=key, cwd=tmp_path).returncode == 4
    # A proof that is right in all but the signature: made by another signer for the same corpus.
    other = tmp_path / "other/key.pem"
    prove(corpus, other, sha256(text_of(5).encode()).hex(), tmp_path / "proof.json")
    refused = overproof(*check, key=key, cwd=tmp_path)
    assert refused.returncode == 4 and "signature" in json.loads(refused.stdout)["fault"]
    text = (tmp_path / "proof.json").read_bytes()
    for at in range(0, len(text), 97):
        changed = bytearray(text)
        changed[at] ^= 1
        (tmp_path / "changed.json").write_bytes(changed)
        assert overproof("audit", "check-proof", tmp_path / "changed.json", "--checkpoint-key", note_key(other).strip(), "--document", sha256(text_of(5).encode()).hex(),
                         key=key).returncode in (3, 4)


@pytest.mark.parametrize("older, newer", [(1, 2), (3, 257), (100, 255), (255, 256), (256, 300), (300, 300)])
def test_a_corpus_that_only_adds(tmp_path, older, newer):
    """The proof by the roots that pymerkle gives for both sizes, and by the hashes of its own proof."""
    key = tmp_path / "key.pem"
    pack = lambda i: "pack" if i < older else "pack-later"
    small, large = make_corpus(tmp_path, key, older, pack=pack), make_corpus(tmp_path, key, newer, pack=pack)
    assert overproof("audit", "checkpoint", small, key=key).returncode == 0
    checkpoint = small.parent / "audits/corpus-documents.checkpoint"
    done = overproof("audit", "prove", large, "--older", checkpoint, "--out", tmp_path / "proof.json", key=key)
    assert done.returncode == 0, done.stderr
    proof = json.loads((tmp_path / "proof.json").read_text())
    assert proof["format"] == "urn:overproof:corpus-consistency:v2"
    tree = pymerkle_tree(table_digests(large))
    assert table_digests(large)[:older] == table_digests(small)
    heads = [open_checkpoint(proof[name], note_key(key)) for name in ("older", "checkpoint")]
    assert [size for _, size, _ in heads] == [older, newer]
    assert [root for _, _, root in heads] == [tree.get_root(older), tree.get_root(newer)]
    assert [origin.split("/")[1] for origin, _, _ in heads] == [root_of(small), root_of(large)]
    check_binding(proof["corpus"], root_of(large), "documents", newer, heads[1][2])
    path = [bytes.fromhex(hash) for hash in proof["path"]]
    assert roots_from_consistency(older, newer, tree.get_root(older), path) == (tree.get_root(older), tree.get_root(newer))
    if older % 2 and 1 < older < newer:  # pymerkle walks another way, over the same hashes where no subtree ends with the older tree
        assert sorted(path) == sorted(tree.prove_consistency(older, newer).path)
    check = ["audit", "check-proof", tmp_path / "proof.json", "--checkpoint-key", note_key(key).strip(), "--older", checkpoint, "--corpus", root_of(large)]
    assert overproof(*check, key=tmp_path / "none.pem").returncode == 0
    if older == newer:
        return
    # The other way round, and a corpus from which one document was taken.
    assert overproof("audit", "checkpoint", large, key=key).returncode == 0
    done = overproof("audit", "prove", small, "--older", large.parent / "audits/corpus-documents.checkpoint", "--out", tmp_path / "no.json", key=key)
    assert done.returncode == 4 and not (tmp_path / "no.json").exists()
    without = make_corpus(tmp_path, key, newer, pack=lambda i: "pack-later" if i == 0 else "pack")
    done = overproof("audit", "prove", without, "--older", checkpoint, "--out", tmp_path / "no.json", key=key)
    assert done.returncode == (0 if table_digests(without)[:older] == table_digests(small) else 4)
    text = (tmp_path / "proof.json").read_bytes()
    for at in range(0, len(text), 41):
        changed = bytearray(text)
        changed[at] ^= 1
        (tmp_path / "changed.json").write_bytes(changed)
        assert overproof("audit", "check-proof", tmp_path / "changed.json", *check[3:], key=key).returncode in (3, 4)


def test_published_trees_are_read_by_an_independent_client(made, tmp_path):
    folder, key, corpus = made
    site = tmp_path / "site"
    done = overproof("audit", "checkpoint", corpus, "--publish", site, key=key)
    assert done.returncode == 0, done.stderr
    digests = table_digests(corpus)
    for tree, leaves in [("documents", digests), ("sorted", sorted(digests))]:
        prefix = site / tree
        origin, size, root = open_checkpoint((prefix / "checkpoint").read_text(), note_key(key))
        assert size == DOCUMENTS and origin.endswith("/" + tree)
        files = {str(path.relative_to(prefix)) for path in prefix.rglob("*") if path.is_file()}
        assert files == {"checkpoint", "tile/0/000", "tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2", "tile/entries/000", "tile/entries/001", "tile/entries/002.p/88"}
        entries = []
        for name in ["tile/entries/000", "tile/entries/001", "tile/entries/002.p/88"]:
            bundle = (prefix / name).read_bytes()
            while bundle:
                length = int.from_bytes(bundle[:2], "big")
                entries.append(bundle[2:2 + length])
                bundle = bundle[2 + length:]
        assert entries == leaves
        hashes = b"".join((prefix / f"tile/0/{name}").read_bytes() for name in ["000", "001", "002.p/88"])
        assert hashes == b"".join(map(leaf_hash, leaves))
        assert (prefix / "tile/1/000.p/2").read_bytes().hex() == pymerkle_root(leaves[:256]) + pymerkle_root(leaves[256:512])
        assert root.hex() == pymerkle_root(leaves)
    # The tokenizer was no artifact, so the chain ends there, which is noted; all else holds, with the checkpoints next to it.
    findings = json.loads(overproof("audit", "verify", corpus.parent, "--json", key=key).stdout)["findings"]
    assert [f["what"] for f in findings if f["severity"] == "failure"] == []
    assert any(f["what"].startswith("was made from 'tokenizer'") and "no statement" in f["what"] for f in findings)


def test_the_artifact_does_not_depend_on_keys(tmp_path):
    one = make_corpus(tmp_path, tmp_path / "a/key.pem", 20)
    two = make_corpus(tmp_path, tmp_path / "b/key.pem", 20)
    overproof("audit", "checkpoint", one, key=tmp_path / "a/key.pem")
    assert root_of(one) == root_of(two)
    assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}
    first = prove(one, tmp_path / "a/key.pem", "0" * 64, tmp_path / "1.json")
    assert first == prove(two, tmp_path / "a/key.pem", "0" * 64, tmp_path / "2.json")


def test_a_private_corpus(tmp_path):
    key, secret = tmp_path / "key.pem", tmp_path / "corpus.salt"
    assert overproof("audit", "salt", "--out", secret, key=key).returncode == 0
    assert secret.stat().st_mode & 0o777 == 0o600 and secret.stat().st_size == 32
    assert overproof("audit", "salt", "--out", secret, key=key).returncode == 2
    corpus = make_corpus(tmp_path, key, 40, "--salt", secret)
    for i in [3, 39, 40, 41, 99]:
        digest = sha256(text_of(i).encode())
        proof = prove(corpus, key, digest.hex(), tmp_path / "proof.json", "--salt", secret)
        assert check_proof(proof, note_key(key), digest, root_of(corpus)) == (i < 40)
        assert overproof("audit", "check-proof", tmp_path / "proof.json", "--checkpoint-key", key.with_name("key.pem.note.pub"), key=key).returncode == 0
        # Another salt may not hide or conjure up anything.
        changed = dict(proof, salt="00" * 32)
        (tmp_path / "changed.json").write_text(json.dumps(changed, separators=(",", ":"), sort_keys=True, ensure_ascii=False) + "\n")
        assert overproof("audit", "check-proof", tmp_path / "changed.json", "--checkpoint-key", key.with_name("key.pem.note.pub"), key=key).returncode == 4
    raw = b"".join((corpus / name).read_bytes() for name in ["commitment.json", "tiles.safetensors", "index.safetensors"])
    claims = (corpus / "claims.jsonl").read_text()
    statement = base64.b64decode(json.loads(claims.splitlines()[0])["payload"])
    for digest in table_digests(corpus):
        assert digest not in raw and digest.hex().encode() not in raw + statement
    assert secret.read_bytes() not in raw and secret.read_bytes().hex().encode() not in statement and str(secret).encode() not in statement
    assert overproof("audit", "prove", corpus, "--document", "0" * 64, "--out", tmp_path / "none.json", key=key).returncode == 2
    assert not (tmp_path / "none.json").exists()


def test_the_order_is_drawn_after_the_corpus(tmp_path):
    from safetensors import safe_open

    key, run = tmp_path / "key.pem", tmp_path / "run"
    texts = program.SOURCE / "examples/texts"
    for words in [["tiny-teacher", "--seed", 1, "--out", run / "teacher"],
                  ["corpus", "--source", texts, "--tokenizer", run / "teacher", "--window-length", 64, "--out", run / "corpus"]]:
        done = overproof(*words, "--quiet", key=key)
        assert done.returncode == 0, done.stderr
    root = bytes.fromhex(root_of(run / "corpus"))
    beacon = sha256(b"a round of a beacon")
    number = lambda value: value.to_bytes(8, "little")
    for name, options, expected in [
        ("plain", [], sha256(b"overproof training order v1" + root + number(5))),
        ("drawn", ["--order-beacon", beacon.hex()], sha256(b"overproof training order v2" + root + number(32) + beacon + number(5))),
    ]:
        done = overproof("teach", "--teacher", run / "teacher", "--corpus", run / "corpus", "--tokens", 256, "--seed", 5, *options, "--out", run / name, "--quiet", key=key)
        assert done.returncode == 0, done.stderr
        with safe_open(run / name / "targets.safetensors", "np") as targets:
            metadata = targets.metadata()
        assert metadata["order_key"] == expected.hex()
        assert metadata.get("order_beacon") == (beacon.hex() if options else None)
    verified = overproof("audit", "verify", run, key=key)
    assert verified.returncode == 0, verified.stdout
    bad = overproof("teach", "--teacher", run / "teacher", "--corpus", run / "corpus", "--tokens", 256, "--order-beacon", "xyz", "--out", run / "bad", key=key)
    assert bad.returncode == 2 and "order beacon" in bad.stderr
