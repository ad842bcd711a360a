"""Tokens and special ids that the files next to a vocabulary add, against transformers: tokenizer_config.json, added_tokens.json and
special_tokens_map.json, next to tokenizer.json (byte-level BPE) and to tokenizer.model (SentencePiece). Runs `overproof tokenizer encode` and `overproof corpus`.
"""
import json

import pytest
import sentencepiece
from safetensors import safe_open
from safetensors.numpy import load_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from program import SOURCE, overproof


def token(text, **flags):
    return {"content": text, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True} | flags


def encode(folder, text, tmp_path):
    (tmp_path / "text.txt").write_bytes(text.encode())
    out = tmp_path.with_suffix(".safetensors")
    overproof("tokenizer", "encode", "--parse-special", "--tokenizer", folder, "--text", tmp_path / "text.txt", "--out", out)
    return load_file(out)["ids"].tolist()


def separator(folder, tmp_path):
    (tmp_path / "source").mkdir(exist_ok=True)
    for name in "ab":
        (tmp_path / f"source/{name}.txt").write_text(f"a text called {name}, which is long enough to be a document of a corpus, if barely")
    overproof("corpus", "--source", tmp_path / "source", "--tokenizer", folder, "--window-length", 16, "--held-out", 0, "--key", tmp_path / "key.pem",
              "--out", tmp_path / "corpus", "--force")
    with safe_open(tmp_path / "corpus/tokens.safetensors", "np") as file:
        return int(file.metadata()["separator"])


def theirs(folder, text):
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id


def put(folder, files):
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([f.read_text() for f in sorted(SOURCE.glob("core/*.h"))], trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|end|>", "<|im_start|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return json.loads(tokenizer.to_str())


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    file = tmp_path_factory.mktemp("pieces") / "tokenizer.model"
    overproof("tokenizer", "train", "--input", SOURCE / "examples/texts", "--model", "bpe", "--vocab-size", 400, "--out", file)
    return file


FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
BPE_CASES = {
    "decoder": ({"added_tokens_decoder": {"600": token("<tool>", special=False)}}, {}),
    "decoder, several": ({"added_tokens_decoder": {"601": token("<b>"), "600": token("<tool>", normalized=True, special=False)}}, {}),
    "decoder changes flags": ({"added_tokens_decoder": {"1": token("<|im_start|>", lstrip=True)}}, {}),
    "decoder makes a piece a token": ({"added_tokens_decoder": {"300": "piece"}}, {}),
    "decoder with another id": ({"added_tokens_decoder": {"7": token("<|im_start|>", rstrip=True)}}, {}),
    "decoder before the other files": ({"added_tokens_decoder": {}}, {"added_tokens.json": {"<tool>": 600}, "special_tokens_map.json": {"eos_token": "<|im_start|>"}}),
    "added_tokens.json": ({}, {"added_tokens.json": {"<tool>": 600}}),
    "added_tokens.json, the end": ({"eos_token": "<tool>"}, {"added_tokens.json": {"<tool>": 600}}),
    "additional": ({"additional_special_tokens": ["<tool>", "<|im_start|>"]}, {}),
    "extra": ({"extra_special_tokens": {"tool_token": "<tool>"}}, {}),
    "map": ({}, {"special_tokens_map.json": {"eos_token": {"content": "<|im_start|>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}}}),
    "map, additional": ({}, {"special_tokens_map.json": {"additional_special_tokens": ["<tool>"]}}),
}


@pytest.mark.parametrize("case", BPE_CASES)
def test_next_to_tokenizer_json(case, bpe, tmp_path):
    config, files = json.loads(json.dumps(BPE_CASES[case]))
    for id, value in config.get("added_tokens_decoder", {}).items():
        if value == "piece":
            config["added_tokens_decoder"][id] = token(next(k for k, v in bpe["model"]["vocab"].items() if v == int(id)), special=False)
    folder = tmp_path / "model"
    folder.mkdir()
    put(folder, {"tokenizer.json": bpe, "tokenizer_config.json": FAST | config} | files)
    text = "a <tool> b<tool>c  <|im_start|>  x<b> <|end|> the return value"
    ids, end = theirs(folder, text)
    assert encode(folder, text, tmp_path) == ids
    assert separator(folder, tmp_path) == end


@pytest.mark.parametrize("with_pieces", [False, True])
def test_an_id_that_transformers_would_not_give_is_refused(with_pieces, bpe, pieces, tmp_path):
    if with_pieces:  # which are not taken instead
        (tmp_path / "tokenizer.model").write_bytes(pieces.read_bytes())
    put(tmp_path, {"tokenizer.json": bpe, "tokenizer_config.json": FAST | {"added_tokens_decoder": {"607": token("<tool>")}}, "a.txt": "a"})
    assert theirs(tmp_path, "<tool>")[0] == [600]
    done = overproof("tokenizer", "encode", "--tokenizer", tmp_path, "--text", tmp_path / "a.txt", "--out", tmp_path.with_suffix(".o"), code=3)
    assert "607" in done.stderr and "600" in done.stderr and "tokenizer_config.json" in done.stderr


CHATML = {"400": token("<|im_start|>"), "401": token("<|im_end|>"), "402": token("<tool>", special=False)}
OWN = {"0": token("<unk>"), "1": token("<s>"), "2": token("</s>")}
LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>", "added_tokens_decoder": OWN | CHATML}
WITHOUT = {k: v for k, v in LLAMA.items() if k != "added_tokens_decoder"}
OLD = {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
       "pre_tokenizer": None}
LISTED = {"added_tokens.json": {"<|im_start|>": 400, "<|im_end|>": 401}}
# The configuration, files, the model's type, and what tokenizer.json has in another form (None: there is no tokenizer.json).
PIECE_CASES = {
    "llama": (LLAMA, {}, "llama", None),
    "llama, legacy": (LLAMA | {"legacy": True}, {}, "llama", None),
    "llama, no prefix": (LLAMA | {"add_prefix_space": False}, {}, "llama", None),
    "mistral": (LLAMA, {}, "mistral", None),
    "added_tokens.json": (WITHOUT, LISTED, "llama", None),
    "added_tokens.json alone": (None, LISTED, "llama", None),
    "decoder before added_tokens.json": (LLAMA, {"added_tokens.json": {"<other>": 403}}, "llama", None),
    "llama, tokenizer.json": (LLAMA, {}, "llama", {}),
    "llama, old tokenizer.json": (LLAMA | {"legacy": True}, {}, "llama", OLD),
    "mistral, old tokenizer.json": (LLAMA, {}, "mistral", OLD),
    "mistral, tokenizer.json": (LLAMA, {}, "mistral", {}),
    "fast, old tokenizer.json": (WITHOUT | {"tokenizer_class": "PreTrainedTokenizerFast"}, {}, "llama", OLD),
    "fast, normalised token": (LLAMA | {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": OWN | CHATML | {"402": token("<tool>", special=False, normalized=True)}}, {}, "llama", OLD),
    "llama, normalised token": (LLAMA | {"added_tokens_decoder": OWN | CHATML | {"402": token("<tool>", special=False, normalized=True)}}, {}, "llama", None),
    "llama, white space": (LLAMA | {"added_tokens_decoder": OWN | CHATML | {"400": token("<|im_start|>", lstrip=True, rstrip=True)}}, {}, "llama", None),
}


@pytest.mark.parametrize("case", PIECE_CASES)
def test_next_to_tokenizer_model(case, pieces, tmp_path):
    from transformers import AutoTokenizer
    config, files, kind, changes = PIECE_CASES[case]
    assert sentencepiece.SentencePieceProcessor(model_file=str(pieces)).get_piece_size() == 400
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(pieces.read_bytes())
    put(folder, {"config.json": {"model_type": kind}})
    if changes is not None:
        put(folder, {"tokenizer_config.json": LLAMA})
        put(folder, {"tokenizer.json": json.loads(AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str()) | changes})
    if config is not None:
        put(folder, {"tokenizer_config.json": config})
    put(folder, files)
    for text in ("<|im_start|>user\nWhat is a river?<|im_end|>\n<|im_start|>assistant\n", "a <|im_start|>user\n hello<|im_end|> b<tool> c<tool>d  <|im_start|>  x</s>y ",
                 "A river in the town, 中文", " <tool><tool> x"):
        assert encode(folder, text, tmp_path) == theirs(folder, text)[0]
    if config is not None:
        assert separator(folder, tmp_path) == 401


@pytest.mark.parametrize("config, kind, cause", [(LLAMA | {"tokenizer_class": "T5Tokenizer"}, "llama", "T5Tokenizer"), (LLAMA, "qwen2", "qwen2"),
                                                 (LLAMA | {"added_tokens_decoder": {"405": token("<far>")}}, "llama", "405")])
def test_pieces_with_tokens_of_an_unknown_kind_are_refused(config, kind, cause, pieces, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(pieces.read_bytes())
    put(tmp_path, {"config.json": {"model_type": kind}, "tokenizer_config.json": config, "a.txt": "a"})
    done = overproof("tokenizer", "encode", "--tokenizer", tmp_path, "--text", tmp_path / "a.txt", "--out", tmp_path.with_suffix(".o"), code=3)
    assert cause in done.stderr


PATTERNS = [r"[a-z&&[^aeiou]]+", r"[[a-c]0-9]+", r"[^[a-c]0-9]+", r"[^a-z&&[^aeiou]]+", r"[\p{L}\p{M}&&[^\p{Han}]]+|[\p{Han}]+", r"a{,2}b", r"^[a-z]+", r"[a-z]+$",
            r"(?m:a.b)", r"\v", r"[\v ]+", r"\p{^L}+", r"[]a]+", r"[a^]+", r"[a\]&&^b]"]


@pytest.mark.parametrize("behavior", ["isolated", "removed"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_mean_what_oniguruma_means(pattern, behavior, bpe, tmp_path):
    tokenizer = Tokenizer.from_str(json.dumps(bpe))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = "Hello world 123 a1b2 aab b aaab\nabba the river 日本語 text\x0bab\x0c\x85cd\u2028e]^\n\nab\r\nxy\n"
    assert encode(tmp_path, text, tmp_path) == tokenizer.encode(text, add_special_tokens=False).ids


def test_posix_brackets_are_refused(bpe, tmp_path):
    put(tmp_path, {"tokenizer.json": bpe | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "[[:punct:]]+"}, "behavior": "Removed", "invert": False}, bpe["pre_tokenizer"]]}}, "a.txt": "a"})
    done = overproof("tokenizer", "encode", "--tokenizer", tmp_path, "--text", tmp_path / "a.txt", "--out", tmp_path.with_suffix(".o"), code=3)
    assert "POSIX" in done.stderr


@pytest.mark.parametrize("added", ["e\u0323", "\u1eb9"])
@pytest.mark.parametrize("normalized", [False, True])
def test_added_tokens_are_normalised_like_the_text(added, normalized, bpe, tmp_path):
    changed = bpe | {"normalizer": {"type": "NFC"}, "added_tokens": bpe["added_tokens"] + [token(added, id=600, special=False, normalized=normalized)]}
    put(tmp_path, {"tokenizer.json": changed})
    text = "x cafe\u0323 y caf\u1eb9 z e\u0323e\u0323 a\u0323b <e\u0323>"
    assert encode(tmp_path, text, tmp_path) == Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("legacy", [False, True])
def test_a_chat_of_pieces_and_added_tokens(legacy, pieces, tmp_path):
    from transformers import AutoTokenizer
    template = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(pieces.read_bytes())
    put(folder, {"config.json": {"model_type": "llama"}, "tokenizer_config.json": LLAMA | {"legacy": legacy, "chat_template": template}})
    messages = [{"role": "user", "content": "What is a river in the town?"}, {"role": "assistant", "content": "It is a stream of water."}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    overproof("corpus", "--source", tmp_path / "chat.jsonl", "--tokenizer", folder, "--window-length", 16, "--held-out", 0, "--key", tmp_path / "key.pem", "--out", tmp_path / "corpus")
    with safe_open(tmp_path / "corpus/tokens.safetensors", "np") as file:
        ours = file.get_tensor("train").tolist()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert ours == [*tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)["input_ids"], 401]


def test_what_is_not_supported_is_no_damage(pieces, tmp_path):
    """Stages that copy a tokenizer take one that cannot be used here."""
    from transformers import LlamaConfig, LlamaForCausalLM
    model = LlamaForCausalLM(LlamaConfig(vocab_size=512, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2))
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model/tokenizer.model").write_bytes(pieces.read_bytes())
    put(tmp_path / "model", {"tokenizer_config.json": {"tokenizer_class": "GemmaTokenizer", "added_tokens_decoder": {"400": token("<image_soft_token>")}}})
    assert "GemmaTokenizer" in overproof("tokenizer", "encode", "--tokenizer", tmp_path / "model", "--text", pieces, "--out", tmp_path / "ids.safetensors", code=3).stderr
    key = ("--key", tmp_path / "key.pem")
    overproof("import", "--path", tmp_path / "model", "--license", "MIT", "--out", tmp_path / "run/teacher", *key)
    overproof("quantize", "--scheme", "int8", tmp_path / "model", tmp_path / "int8", *key)
    (tmp_path / "model/tokenizer.model").write_bytes(pieces.read_bytes()[:-100])
    overproof("quantize", "--scheme", "int8", tmp_path / "model", tmp_path / "again", *key, code=3)
