"""Passages in a corpus whose texts are in its table: found by Python's str.find, and the index read as its header describes."""

import json
import os
import random
import subprocess

import pytest
from safetensors import safe_open

OVERPROOF = os.environ["OVERPROOF"]
WORDS = ["tide", "lamp", "grün", "of", "seven", "the", "quay", "über", "nail", "x1", "moss", "and"]


def overproof(*words, key):
    done = subprocess.run([OVERPROOF, *map(str, words)], capture_output=True, text=True, env={**os.environ, "OVERPROOF_KEY": str(key)})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("spans")
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["<|endoftext|>"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer/tokenizer.json"))
    rng = random.Random(20261124)
    texts = {f"d{i:03d}": " ".join(rng.choices(WORDS, k=rng.randint(15, 120))) + f' "{i}"\n' for i in range(300)}
    (folder / "source").mkdir()
    with open(folder / "source/documents.jsonl", "w") as table:
        for i in rng.sample(sorted(texts), len(texts)):  # in any order
            table.write(json.dumps({"name": i, "license": "CC0-1.0", "source": f"pack{int(i[1:]) % 4}", "text": texts[i]}) + "\n")
    run, key = folder / "run", folder / "keys/signing-key.pem"
    overproof("corpus", "--source", folder / "source", "--tokenizer", folder / "tokenizer", "--out", run / "corpus", "--quiet", key=key)
    overproof("index", "--corpus", run / "corpus", "--out", run / "index", "--shard-bytes", 20000, "--quiet", key=key)
    return run, key, texts


def test_texts_of_the_table_are_the_documents(made):
    run, _, texts = made
    records = [json.loads(line) for line in (run / "corpus/documents.jsonl").read_text().splitlines()]
    assert {r["name"] for r in records} == set(texts)
    assert [(r["source"], r["name"]) for r in records] == sorted((r["source"], r["name"]) for r in records)
    stored = [json.loads(line) for file in (run / "corpus/texts").iterdir() for line in file.read_text().splitlines()]
    assert {r["name"]: r["text"] for r in stored} == texts


def test_every_planted_passage_is_found_and_counted(made):
    run, key, texts = made
    rng = random.Random(7)
    for _ in range(12):
        parts = []
        for name in rng.sample(sorted(texts), 3):
            words = texts[name].split(" ")
            at = rng.randrange(0, len(words) - 13)
            parts += [" ".join(f"zz{rng.random():.9f}"[:9].replace(".", "q") for _ in range(rng.randint(1, 30))), " ".join(words[at:at + 12])]
        query = ". ".join(parts)
        told = json.loads(overproof("audit", "trace", run, "--span", query, "--documents", 1000, "--verify", "sizes", "--json", key=key))
        for planted in parts[1::2]:
            span = next(s for s in told["spans"] if planted in s["text"] or s["text"] in planted and len(s["text"]) > len(planted) - 9)
            assert query.encode()[span["begin"]:span["end"]].decode() == span["text"]
        for span in told["spans"]:
            holders = {n for n, t in texts.items() if span["text"] in t}
            assert {d["name"] for d in span["documents"]} == holders and holders
            for d in span["documents"]:
                assert texts[d["name"]].encode().find(span["text"].encode()) == d["byte"]


def test_suffixes_are_in_the_order_of_their_bytes(made):
    run, _, _ = made
    shards = sorted((run / "index").glob("suffixes-*.safetensors"))
    assert len(shards) > 2
    for shard in shards:
        with safe_open(shard, "numpy") as file:
            suffixes, text = file.get_tensor("suffixes").tolist(), file.get_tensor("text").tobytes()
        assert len(set(suffixes)) == len(suffixes) > 100
        order = [text[s:] for s in suffixes]
        assert order == sorted(order)


def test_documents_are_found_by_name_and_by_digest(made):
    run, key, texts = made
    for line in (run / "corpus/documents.jsonl").read_text().splitlines()[::60]:
        record = json.loads(line)
        for way in (record["name"], record["digest"]):
            told = json.loads(overproof("audit", "trace", run, "--document", way, "--json", key=key))
            assert told["document"]["name"] == record["name"] and told["document"]["first_token"] == record["first_token"]
    for way in ("d300", "0" * 64):
        assert json.loads(overproof("audit", "trace", run, "--document", way, "--json", key=key))["status"] == "absent"
