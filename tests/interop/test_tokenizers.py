"""Token ids against Hugging Face `tokenizers` and the PyPI SentencePiece, on more than a megabyte of mixed text.

Runs `overproof tokenizer encode` and `tokenizer train`. OVERPROOF_TEACHER is the path of SmolLM2-135M-Instruct.Q4_1.gguf.
"""
import importlib.util
import os
import random
import sysconfig
import unicodedata
from functools import cache
from pathlib import Path

import pytest
import sentencepiece
from safetensors.numpy import load_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from program import SOURCE, overproof


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def encode(tokenizer, text, folder, *options):
    (folder / "text.txt").write_bytes(text.encode())
    overproof("tokenizer", "encode", "--tokenizer", tokenizer, "--text", folder / "text.txt", "--out", folder / "ids.safetensors",
              *options)
    return load_file(folder / "ids.safetensors")["ids"].tolist()


def check(theirs, ours, name):
    for i, (a, b) in enumerate(zip(theirs, ours)):
        assert a == b, f"id {i}: {name(a)!r} ({a}) of theirs, {name(b)!r} ({b}) of ours, after {[name(x) for x in theirs[max(0, i - 5):i]]}"
    assert len(theirs) == len(ours)


@cache
def normalises_alike(character):
    """Whether `tokenizers`, whose tables are of Unicode 9, puts the character where later Unicode does. See data/unicode.h."""
    return all(normalizers.NFC().normalize_str(x) == unicodedata.normalize("NFC", x)
               for x in (character, "\u0345" + character, character + "\u0334"))


@pytest.fixture(scope="session")
def text():
    """Prose, code, and every kind of character: Chinese, Hangul, Arabic, marks, emoji, private use, odd white space."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(SOURCE.glob("*/*.cc")) + sorted(SOURCE.glob("*/*.h")) + sorted(stdlib.glob("*.py"))
    parts, size = [], 0
    for file in files:
        if size < 900_000:
            parts.append(file.read_text(encoding="utf-8", errors="replace")[:40_000])
            size += len(parts[-1])
    rng = random.Random(7)
    chinese = "人人生而自由在尊严和权利上一律平等他们赋有理性和良心并应以兄弟关系的精神相对待，。！？《》"
    parts.append("".join(rng.choice(chinese) + ("\n" if i % 61 == 0 else "") for i in range(60_000)))
    parts.append("".join(rng.choice(["😀", "👩‍💻", "🇩🇪", "👍🏽", "❤️", " ", "ok ", "1️⃣", "🫠"]) for _ in range(20_000)))
    spans = [(0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0xE7F), (0x1100, 0x11FF),
             (0x2000, 0x2BFF), (0x3000, 0x30FF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFF00, 0xFFEF), (0x1F300, 0x1FAFF), (0x20000, 0x2A000)]
    odd = " \n\r\t\x0b\x0c\x85\u00a0\u180e\u200b\u200d\u2028\u3000\ufeff"
    for _ in range(120_000):
        character = rng.choice(odd) if rng.random() < 0.2 else chr(rng.randint(*rng.choice(spans)))
        if normalises_alike(character):
            parts.append(character)
    parts.append(" " * 3000 + "a" * 5000 + "\n" * 2000 + "1" * 3000 + "\r\n\r\n  x it'S WE'LL i'm 'TIS don't\u017f 3,141.59 <|im_start|>user\n<tool> x")
    whole = "".join(parts)
    assert len(whole.encode()) > 1_000_000
    return whole


@pytest.fixture(scope="session")
def teacher():
    path = os.environ.get("OVERPROOF_TEACHER")
    assert path, "OVERPROOF_TEACHER must name SmolLM2-135M-Instruct.Q4_1.gguf (see examples/)"
    return Path(path)


@pytest.fixture(scope="session")
def smollm(teacher):
    """SmolLM2's tokenizer as Hugging Face would have it, made from the GGUF by the `gguf` package."""
    import gguf
    fields = gguf.GGUFReader(teacher).fields
    tokens, kinds, merges = (fields[f"tokenizer.ggml.{k}"].contents() for k in ("tokens", "token_type", "merges"))
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, kinds) if k == 3])
    return tokenizer


@pytest.mark.parametrize("special", [False, True])
def test_gguf_tokenizer_of_the_teacher(smollm, teacher, text, tmp_path, special):
    smollm.encode_special_tokens = not special
    theirs = smollm.encode(text, add_special_tokens=False).ids
    check(theirs, encode(teacher, text, tmp_path, *(["--parse-special"] if special else [])), smollm.id_to_token)


def trained(pre, text, **model_options):
    tokenizer = Tokenizer(models.BPE(**model_options))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=4000, special_tokens=["<|endoftext|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([text[i:i + 2000] for i in range(0, len(text), 2000)], trainer)
    return tokenizer


def byte_level(**options):
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, "use_regex": False, **options})


SHAPES = {
    "llama-3": lambda t: trained(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), byte_level()]), t, ignore_merges=True),
    "qwen2": lambda t: trained(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"), byte_level()]), t),
    "gpt2": lambda t: trained(byte_level(use_regex=True, add_prefix_space=True), t),
    "digits": lambda t: trained(pre_tokenizers.Sequence([pre_tokenizers.Digits(False), pre_tokenizers.Split("e", "merged_with_previous"),
                                                         pre_tokenizers.Split(Regex(r"[aeiou]+"), "merged_with_next"),
                                                         pre_tokenizers.Split(Regex(r"\s+"), "contiguous", invert=True), byte_level()]), t),
    "removed": lambda t: trained(pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), byte_level(use_regex=True)]), t),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_tokenizer_json_of_other_models(shape, text, tmp_path):
    tokenizer = SHAPES[shape](text[:400_000] + text[-200_000:])
    if shape == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("<tool>", lstrip=True, rstrip=True), AddedToken("self", single_word=True, normalized=False),
                          AddedToken("return ", normalized=False), AddedToken("re", single_word=True), AddedToken("é", normalized=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for special in (False, True):
        tokenizer.encode_special_tokens = not special
        theirs = tokenizer.encode(text, add_special_tokens=False).ids
        ours = encode(tmp_path / "tokenizer.json", text, tmp_path, *(["--parse-special"] if special else []))
        check(theirs, ours, tokenizer.id_to_token)


def test_others_are_refused(tmp_path):
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    (tmp_path / "its").mkdir()
    tokenizer.save(str(tmp_path / "its/tokenizer.json"))
    (tmp_path / "a.txt").write_text("a")
    done = overproof("tokenizer", "encode", "--tokenizer", tmp_path / "its", "--text", tmp_path / "a.txt", "--out", tmp_path / "o.safetensors", code=3)
    assert "WordPiece" in done.stderr
    assert not (tmp_path / "o.safetensors").exists()


MISTRAL = sorted((Path(importlib.util.find_spec("mistral_common").origin).parent / "data").glob("*.model.v*"))


@pytest.mark.parametrize("model", MISTRAL, ids=lambda p: p.name)
def test_sentencepiece_models_of_mistral(model, text, tmp_path):
    copy = tmp_path / "tokenizer.model"
    copy.write_bytes(model.read_bytes())
    peer = sentencepiece.SentencePieceProcessor(model_file=str(model))
    check(peer.encode(text), encode(copy, text, tmp_path), peer.id_to_piece)


def write_pieces(peer, file, prefix=None, added=()):
    """The pieces of a .model as the keys that llama.cpp's converter writes; `added`: (text, type) after them."""
    import gguf
    kind = lambda i: 2 if peer.is_unknown(i) else 3 if peer.is_control(i) else 5 if peer.is_unused(i) else 6 if peer.is_byte(i) else 1  # noqa: E731
    count = peer.get_piece_size()
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([peer.id_to_piece(i) for i in range(count)] + [text for text, _ in added])
    writer.add_token_scores([peer.get_score(i) for i in range(count)] + [-1000.0] * len(added))
    writer.add_token_types([kind(i) for i in range(count)] + [type for _, type in added])
    writer.add_bos_token_id(peer.bos_id())
    writer.add_eos_token_id(peer.eos_id())
    writer.add_unk_token_id(peer.unk_id())
    if prefix is not None:
        writer.add_add_space_prefix(prefix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize("model", MISTRAL, ids=lambda p: p.name)
def test_sentencepiece_in_a_gguf(model, text, tmp_path):
    peer = sentencepiece.SentencePieceProcessor(model_file=str(model))
    more = peer.get_piece_size()
    file = write_pieces(peer, tmp_path / "m.gguf", added=[("<|turn|>", 3), ("<a tool>", 4)])
    check(peer.encode(text), encode(file, text, tmp_path), peer.id_to_piece)
    assert encode(file, "a<|turn|>b <a tool>", tmp_path, "--parse-special").count(more) == 1
    assert encode(file, "b <a tool> c", tmp_path).count(more + 1) == 1  # as llama.cpp, with and without special tokens
    assert more not in encode(file, "a<|turn|>b", tmp_path)
    without = encode(write_pieces(peer, tmp_path / "n.gguf", prefix=False), "one two", tmp_path)
    assert "".join(map(peer.id_to_piece, without)) == "one▁two" and "".join(map(peer.id_to_piece, encode(file, "one two", tmp_path))) == "▁one▁two"


@pytest.mark.parametrize("damage, cause", [(lambda w: w.add_token_scores([0.0]), "scores"), (lambda w: w.add_token_types([1]), "token types"),
                                           (lambda w: w.add_token_list(["a", "a"]), "a"), (lambda w: w.add_eos_token_id(7), "outside the vocabulary")])
def test_a_broken_sentencepiece_in_a_gguf_is_refused(damage, cause, tmp_path):
    import gguf
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "a"])
    writer.add_token_scores([0.0, 0.0])
    writer.kv_data[0].pop("tokenizer.ggml.scores" if cause == "scores" else "tokenizer.ggml.tokens" if cause == "a" else "general.none", None)
    damage(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tmp_path / "a.txt").write_text("a")
    done = overproof("tokenizer", "encode", "--tokenizer", tmp_path / "m.gguf", "--text", tmp_path / "a.txt", "--out", tmp_path / "o", code=3)
    assert cause in done.stderr and not (tmp_path / "o").exists()


def test_a_gguf_with_sentencepiece_teaches(tmp_path):
    """Through all that a teacher is asked for, to a student that transformers opens with the same ids."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    key = ["--key", tmp_path / "key.pem"]
    overproof("tokenizer", "train", "--input", SOURCE / "examples/texts", "--model", "bpe", "--vocab-size", 600, "--out", tmp_path / "t.model")
    peer = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "t.model"))
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(vocab_size=600, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
                                 bos_token_id=peer.bos_id(), eos_token_id=peer.eos_id(), initializer_range=0.1)).save_pretrained(tmp_path / "hf")
    (tmp_path / "hf/tokenizer.model").write_bytes((tmp_path / "t.model").read_bytes())
    overproof("export", tmp_path / "hf", tmp_path / "gguf", "--type", "f32", "--acknowledge", "unknown-ancestry,unspecified", *key)
    run = tmp_path / "run"
    overproof("import", "--path", tmp_path / "gguf/model.gguf", "--out", run / "teacher", *key)
    overproof("corpus", "--source", SOURCE / "examples/texts", "--tokenizer", run / "teacher", "--window-length", 64, "--held-out", 0.5, "--out", run / "corpus", *key)
    both = ["--teacher", run / "teacher", "--corpus", run / "corpus", *key]
    overproof("teach", "--tokens", 512, "--out", run / "targets", *both)
    overproof("observe", "--tokens", 512, "--out", run / "statistics", *both)
    overproof("sample", "--count", 2, "--max-tokens", 12, "--out", run / "samples", *both)
    overproof("carve", "--teacher", run / "teacher", "--statistics", run / "statistics", "--experts", 3, "--shared", 1, "--top-k", 1, "--out", run / "student", *key)
    sample = "It's a test,  with 中文 and\n  numbers 123."
    assert encode(run / "teacher", sample, tmp_path) == encode(run / "student", sample, tmp_path)
    assert sentencepiece.SentencePieceProcessor(model_file=str(run / "student/tokenizer.model")).encode(sample) == encode(run / "teacher", sample, tmp_path)
    assert AutoTokenizer.from_pretrained(run / "student").encode(sample, add_special_tokens=False) == encode(run / "teacher", sample, tmp_path)
    overproof("evaluate", "--teacher", run / "teacher", "--corpus", run / "corpus", "--student", run / "student", "--tokens", 128, "--prompts", 0, "--out", run / "e", *key)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_trained_vocabulary(kind, tmp_path):
    lines = "\n".join(f.read_text() for f in sorted(SOURCE.glob("core/*.h")))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text(lines)
    for name in ("one.model", "two.model"):
        overproof("tokenizer", "train", "--input", tmp_path / "in", "--model", kind, "--vocab-size", 600, "--out", tmp_path / name)
    assert (tmp_path / "one.model").read_bytes() == (tmp_path / "two.model").read_bytes()
    peer = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "one.model"))
    assert peer.get_piece_size() == 600
    sample = lines[:4000] + " 中文 👩‍💻  two  spaces"
    ours = encode(tmp_path / "one.model", sample, tmp_path)
    assert peer.decode(ours) == sample
    if kind == "bpe":
        check(peer.encode(sample), ours, peer.id_to_piece)
    else:
        # The library's versions break ties of equal score differently, so what must agree is the score of the pieces.
        score = lambda ids: sum(peer.get_score(i) for i in ids if not peer.is_byte(i))  # noqa: E731
        assert abs(score(ours) - score(peer.encode(sample))) < 1e-3
