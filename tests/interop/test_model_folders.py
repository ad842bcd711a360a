"""Model folders whose files contradict each other, or hold half a model: read as transformers reads them, or refused.

The models are made by transformers; logits and generated ids are compared with its own.
"""
import io
import json
import shutil

import gguf
import pytest
import sentencepiece
import torch
from safetensors import deserialize
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from program import SOURCE, overproof

IDS = [(i * 37) % 250 for i in range(200)]
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A Llama of two layers with a head of its own, and a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("model") / "base"
    torch.manual_seed(3)
    config = LlamaConfig(vocab_size=259, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=512, tie_word_embeddings=False, bos_token_id=257, eos_token_id=257, initializer_range=0.2)
    LlamaForCausalLM(config).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*alphabet, "ab"])}, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|stop|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}))
    return folder


@pytest.fixture
def folder(base, tmp_path):
    return shutil.copytree(base, tmp_path / "in")


@pytest.fixture
def key(tmp_path):
    return ["--key", tmp_path / "key.pem"]


def weights(folder):
    return load_file(folder / "model.safetensors")


def put(folder, tensors, name="model.safetensors"):
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / name, {"format": "pt"})


def change(folder, name="config.json", **values):
    file = folder / name
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | values))


def ours(folder, tmp_path):
    save_file({"ids": torch.tensor(IDS)}, tmp_path / "ids.safetensors")
    overproof("logits", folder, "--ids", tmp_path / "ids.safetensors", "--out", tmp_path / "logits.safetensors")
    return load_file(tmp_path / "logits.safetensors")["logits"].clone()


def theirs(folder):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(torch.tensor([IDS])).logits[0]


def check_same(folder, tmp_path, bound=2e-4):
    assert (ours(folder, tmp_path) - theirs(folder)).abs().max() < bound


def exported(folder, tmp_path, key):
    overproof("export", "--model", folder, "--type", "f32", "--out", tmp_path / "gguf", "--acknowledge", "unknown-ancestry,unspecified", *key)
    return tmp_path / "gguf"


def test_the_single_file_counts_before_shards(folder, tmp_path, key):
    tensors = weights(folder)
    put(folder, {k: 2 * v for k, v in tensors.items()}, "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}))
    check_same(folder, tmp_path)
    assert "the single file counts" in overproof("quantize", folder, tmp_path / "q", *key).stdout


def sharded(folder, copy=None, **places):
    """In two shards, with an index that places tensors elsewhere, or nowhere (None). `copy`: (name, factor) of a tensor in both shards."""
    tensors = weights(folder)
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    halves = {first: dict(list(tensors.items())[::2]), second: dict(list(tensors.items())[1::2])}
    index = {name: file for file, half in halves.items() for name in half}
    if copy:
        for half in halves.values():
            half.setdefault(copy[0], copy[1] * tensors[copy[0]])
    for file, half in halves.items():
        put(folder, half, file)
    for name, place in places.items():
        index[name.replace("__", ".")] = {"first": first, "second": second, "nowhere": None}[place]
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {k: v for k, v in index.items() if v}}))


@pytest.mark.parametrize("places, copy, note", [
    ({"lm_head__weight": "nowhere"}, None, "does not list 1 tensor"),
    ({"model__norm__weight": "first", "lm_head__weight": "second"}, None, "places 1 tensor in shards that do not have"),
    ({"model__norm__weight": "first"}, ("model.norm.weight", 1), "in two shards with the same values"),
    ({"model__norm__weight": "second"}, ("model.norm.weight", 1), "in two shards with the same values"),
])
def test_every_tensor_of_the_shards_that_an_index_names_is_read(folder, tmp_path, key, places, copy, note):
    sharded(folder, copy, **places)
    check_same(folder, tmp_path)
    for done in (overproof("import", "--path", folder, "--out", tmp_path / "i", *key), overproof("quantize", folder, tmp_path / "q", *key)):
        assert note in done.stdout
    check_same(tmp_path / "q", tmp_path, 2e-2)
    assert "model.norm.weight" in overproof("inspect", folder).stdout


def test_two_shards_with_different_values_of_a_tensor_are_refused(folder, tmp_path, key):
    sharded(folder, ("model.norm.weight", 7))
    for verb in (["import", "--path", folder, "--out", tmp_path / "i"], ["quantize", folder, tmp_path / "q"]):
        refusal = overproof(*verb, *key, code=3).stderr
        assert "model.norm.weight" in refusal and refusal.count("-of-00002.safetensors") == 2 and "with other values" in refusal


@pytest.mark.parametrize("name", ["compression_config", "quantization"])
def test_a_description_of_codes_that_transformers_does_not_read_stays_out_of_new_ones(folder, tmp_path, key, name):
    change(folder, **{name: {"quant_method": "compressed-tensors", "format": "int-quantized", "bits": 4, "group_size": 64}})
    check_same(folder, tmp_path)  # the weights are plain
    assert f"'{name}' of the model is not written" in overproof("quantize", folder, tmp_path / "q", *key).stdout
    assert name not in json.loads((tmp_path / "q/config.json").read_text())
    check_same(tmp_path / "q", tmp_path, 2e-2)


def test_a_head_of_its_own_counts_before_tie_word_embeddings(folder, tmp_path, key):
    change(folder, tie_word_embeddings=True)
    check_same(folder, tmp_path)
    gguf_folder = exported(folder, tmp_path, key)
    assert (ours(gguf_folder, tmp_path) - ours(folder, tmp_path)).abs().max() < 2e-4
    overproof("quantize", folder, tmp_path / "q", *key)
    assert json.loads((tmp_path / "q/config.json").read_text())["tie_word_embeddings"] is False
    check_same(tmp_path / "q", tmp_path, 2e-2)


@pytest.mark.parametrize("values", [{"rope_scaling": LLAMA3}, {"rope_scaling": LLAMA3 | {"factor": 2.0}, "rope_parameters": LLAMA3 | {"rope_theta": 1e6}},
                                    {"rope_scaling": {k: v for k, v in LLAMA3.items() if k != "original_max_position_embeddings"}},
                                    {"rope_scaling": None, "rope_parameters": LLAMA3 | {"rope_theta": 1e5}}, {"rope_scaling": {}}])
def test_rope_scaling_counts_before_rope_parameters(folder, tmp_path, key, values):
    change(folder, **values)
    check_same(folder, tmp_path)
    assert (ours(exported(folder, tmp_path, key), tmp_path) - ours(folder, tmp_path)).abs().max() < 2e-4


def test_types_below_a_byte_are_listed_and_kept_or_refused_by_name(folder, tmp_path, key):
    def store(tensors):
        header, data = {"__metadata__": {"format": "pt"}}, b""
        for name, t in sorted(tensors.items()):  # deserialize() has no order
            header[name] = {"dtype": t["dtype"], "shape": t["shape"], "data_offsets": [len(data), len(data) + len(t["data"])]}
            data += t["data"]
        text = json.dumps(header).encode()
        (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)

    before = ours(folder, tmp_path)
    packed = dict(deserialize((SOURCE / "tests/golden/formats_dtypes/packed.safetensors").read_bytes()))
    tensors = dict(deserialize((folder / "model.safetensors").read_bytes())) | packed
    store(tensors)
    listed = {t["name"]: (t["dtype"], t["shape"]) for t in json.loads(overproof("inspect", folder, "--as-model", "--digests", "--json").stdout)["tensors"]}
    assert {n: listed[n] for n in packed} == {n: (t["dtype"], t["shape"]) for n, t in packed.items()}
    assert torch.equal(ours(folder, tmp_path), before)
    said = overproof("quantize", "--model", folder, "--out", tmp_path / "int8", *key, code=3).stderr
    assert "F6_E3M2 has dtype F6_E3M2" in said and not (tmp_path / "int8").exists()  # one element of six bits a row
    del tensors["F6_E3M2"]
    store(tensors)
    overproof("quantize", "--model", folder, "--out", tmp_path / "int8", *key)
    kept = dict(deserialize((tmp_path / "int8/model.safetensors").read_bytes()))
    for name in ("F4", "F6_E2M3"):
        assert kept[name] == packed[name]
    said = overproof("export", "--model", folder, "--type", "f32", "--out", tmp_path / "gguf", "--acknowledge", "unknown-ancestry,unspecified", *key, code=3).stderr
    assert "'F4'" in said
    tensors["model.norm.weight"] |= {"dtype": "F4", "data": bytes(32)}
    store(tensors)
    for words in (["quantize", "--model", folder, "--out", tmp_path / "none", *key], ["generate", folder, "--prompt", "a"]):
        assert "model.norm.weight" in overproof(*words, code=3).stderr and not (tmp_path / "none").exists()


def test_biases_that_the_configuration_switches_off_stay_out(folder, tmp_path, key):
    tensors = weights(folder)
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.full((64,), 5.0)
    tensors["model.layers.1.mlp.up_proj.bias"] = torch.full((96,), 5.0)
    put(folder, tensors)
    check_same(folder, tmp_path)
    assert (ours(exported(folder, tmp_path, key), tmp_path) - ours(folder, tmp_path)).abs().max() < 2e-4
    assert "2 tensors are not used" in overproof("import", "--path", folder, "--out", tmp_path / "i", *key).stdout


def test_the_repetition_penalty_of_the_model_is_that_of_transformers(folder, tmp_path, key):
    def written(model, *options):
        return json.loads(overproof("generate", model, "--prompt", "a cab", "--max-tokens", 40, *options, "--json").stdout)["ids"]

    prompt = AutoTokenizer.from_pretrained(folder)("a cab", return_tensors="pt")
    change(folder, "generation_config.json", eos_token_id=258, pad_token_id=258, bos_token_id=257)
    plain = written(folder)
    for penalty in (1.3, 0.8):
        change(folder, "generation_config.json", repetition_penalty=penalty)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        theirs = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, prompt.input_ids.shape[1]:].tolist()
        assert written(folder) == theirs
        assert written(folder, "--repetition-penalty", 1) == plain
    # The other settings as well reach GGUF, what is made of it, and another GGUF.
    asked = {"repetition_penalty": 1.3, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05}
    change(folder, "generation_config.json", **asked, do_sample=True)
    made = exported(folder, tmp_path, key) / "model.gguf"
    keys = gguf.Keys.General
    places = dict(zip(asked, (keys.SAMPLING_PENALTY_REPEAT, keys.SAMPLING_TEMP, keys.SAMPLING_TOP_K, keys.SAMPLING_TOP_P, keys.SAMPLING_MIN_P)))

    def check(file):
        assert {name: gguf.GGUFReader(file).get_field(place).contents() for name, place in places.items()} == pytest.approx(asked)

    check(made)
    assert written(made) == written(folder) != plain
    overproof("quantize", "--model", made, "--out", tmp_path / "int8", *key)
    found = json.loads((tmp_path / "int8/generation_config.json").read_text())
    assert found == asked | {"do_sample": True, "bos_token_id": 257, "eos_token_id": [257, 258], "pad_token_id": 258}
    overproof("quantize", "--model", made, "--scheme", "q8_0", "--out", tmp_path / "q8_0", "--acknowledge", "unknown-ancestry,unspecified", *key)
    check(tmp_path / "q8_0/model.gguf")
    change(folder, "generation_config.json", top_k="many")
    assert "top_k" in overproof("export", "--model", folder, "--out", tmp_path / "none", "--acknowledge", "unknown-ancestry,unspecified", *key, code=3).stderr
    change(folder, "generation_config.json", top_k=20)
    change(folder, "generation_config.json", repetition_penalty=-1)
    assert "repetition_penalty is -1" in overproof("generate", folder, "--prompt", "a", code=3).stderr


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_any_of_the_end_tokens_ends_a_text(folder, tmp_path, file):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    greedy = model.generate(torch.tensor([[65]]), max_new_tokens=8, do_sample=False, eos_token_id=None)[0, 1:].tolist()
    if file == "config.json":
        (folder / "generation_config.json").unlink()
    change(folder, file, eos_token_id=[257, greedy[3]])
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = again.generate(torch.tensor([[65]]), max_new_tokens=8, do_sample=False)[0, 1:].tolist()
    assert expected[-1] == greedy[3]
    prompt = AutoTokenizer.from_pretrained(folder).decode([65])
    told = json.loads(overproof("generate", folder, "--prompt", prompt, "--max-tokens", 8, "--json").stdout)
    assert told["ids"] == expected[:-1] and told["ended_by"] == "end-of-text"


@pytest.mark.parametrize("inline, files, expected", [
    ([{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}], {}, {"default": "D", "tool_use": "T"}),
    (None, {"chat_template.jinja": "F", "additional_chat_templates/tool_use.jinja": "T"}, {"default": "F", "tool_use": "T"}),
    ("I", {"chat_template.jinja": "F"}, {"default": "F"})])
def test_chat_templates_reach_gguf_from_where_transformers_takes_them(folder, tmp_path, key, inline, files, expected):
    if inline:
        change(folder, "tokenizer_config.json", chat_template=inline)
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    template = AutoTokenizer.from_pretrained(folder).chat_template
    assert template == (expected if len(expected) > 1 else expected["default"])
    reader = gguf.GGUFReader(exported(folder, tmp_path, key) / "model.gguf")
    stored = {name.removeprefix("tokenizer.chat_template").lstrip(".") or "default": field.contents()
              for name, field in reader.fields.items() if name.startswith("tokenizer.chat_template") and name != "tokenizer.chat_templates"}
    assert stored == expected
    overproof("quantize", tmp_path / "gguf", tmp_path / "back", *key)
    assert AutoTokenizer.from_pretrained(tmp_path / "back").chat_template == template


def split(file, folder, parts):
    """As llama-gguf-split writes it: keys in the first part, tensors in order."""
    reader = gguf.GGUFReader(file)
    names = [t.name for t in reader.tensors]
    step = -(-len(names) // parts)
    folder.mkdir()
    for number in range(parts):
        writer = gguf.GGUFWriter(folder / f"m-{number + 1:05}-of-{parts:05}.gguf", reader.fields["general.architecture"].contents())
        for name, field in reader.fields.items():
            if number == 0 and not name.startswith("GGUF.") and name != "general.architecture" and len(field.data):
                writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", parts)
        writer.add_int32("split.tensors.count", len(names))
        for tensor in reader.tensors[number * step:(number + 1) * step]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def test_a_split_gguf_is_read_whole(folder, tmp_path, key):
    whole = exported(folder, tmp_path, key)
    split(whole / "model.gguf", tmp_path / "parts", 3)
    assert torch.equal(ours(tmp_path / "parts", tmp_path), ours(whole, tmp_path))
    overproof("import", "--path", tmp_path / "parts", "--out", tmp_path / "i", *key)
    assert torch.equal(ours(tmp_path / "i", tmp_path), ours(whole, tmp_path))
    overproof("quantize", tmp_path / "parts", tmp_path / "q", *key)
    alone = tmp_path / "parts/m-00002-of-00003.gguf"
    assert "one of 3 parts" in overproof("import", "--path", alone, "--out", tmp_path / "alone", *key, code=3).stderr
    (tmp_path / "parts/m-00003-of-00003.gguf").unlink()
    assert "'m-00003-of-00003.gguf' is not there" in overproof("quantize", tmp_path / "parts", tmp_path / "r", *key, code=3).stderr


@pytest.mark.parametrize("verb", ["import", "quantize", "export"])
def test_half_a_model_is_refused_before_anything_is_written(folder, tmp_path, key, verb):
    whole = weights(folder)

    def refused(cause, code=3):
        words = {"import": ["import", "--path", folder, "--out"], "quantize": ["quantize", folder], "export": ["export", "--model", folder, "--out"]}[verb]
        assert cause in overproof(*words, tmp_path / "out", *key, code=code).stderr
        assert not (tmp_path / "out").exists()

    put(folder, {k: v for k, v in whole.items() if "layers.1." not in k})
    refused("lacks 9 tensors")
    put(folder, {k: v for k, v in whole.items() if k != "lm_head.weight"})
    refused("lm_head.weight")
    put(folder, {"_orig_mod." + k: v for k, v in whole.items()})
    refused("'_orig_mod.'")
    put(folder, {k.removeprefix("model."): v for k, v in whole.items() if k != "lm_head.weight"})
    refused("AutoModelForCausalLM")
    name = "model.layers.0.mlp.up_proj.weight"
    put(folder, whole | {name: whole[name].to(torch.int8), name[:-6] + "SCB": torch.ones(96)})
    refused("codes, not weights")
    put(folder, whole)
    change(folder, hidden_size=128)
    refused("its config.json requires")
    change(folder, hidden_size=64)
    added = json.loads((folder / "tokenizer.json").read_text())
    added["added_tokens"].append(added["added_tokens"][-1] | {"id": 259, "content": "<tool>"})
    (folder / "tokenizer.json").write_text(json.dumps(added))
    refused("'<tool>' (259)")
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 538\n")
    refused("git lfs pull")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    refused("LoRA adapter", code=5)


DAMAGES = {
    "special_tokens_map.json": '{"eos_token":',
    "added_tokens.json": '{"<x>":',
    "tokenizer_config.json": '{"eos_token":"<|endo',
    "tokenizer.json": "{}",
    "generation_config.json": '{"eos_token_id":"2"}',
    "chat_template.json": "[]",
    "preprocessor_config.json": "{",
}


@pytest.mark.parametrize("verb", ["import", "quantize", "export"])
def test_files_next_to_the_weights_that_no_loader_opens_are_refused(folder, tmp_path, key, verb):
    words = {"import": ["import", "--path", folder, "--out"], "quantize": ["quantize", folder],
             "export": ["export", "--model", folder, "--acknowledge", "unknown-ancestry,unspecified", "--out"]}[verb]
    for name, content in DAMAGES.items():
        file = folder / name
        before = file.read_bytes() if file.exists() else None
        file.write_text(content)
        if name in ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json"):
            with pytest.raises(Exception):
                AutoTokenizer.from_pretrained(folder)
        assert f"{name}: " in overproof(*words, tmp_path / "out", *key, code=3).stderr
        assert not (tmp_path / "out").exists()
        file.unlink() if before is None else file.write_bytes(before)
    (folder / "chat_template.jinja").write_text("{% for %}")  # the peer opens the tokenizer
    AutoTokenizer.from_pretrained(folder)
    overproof(*words, tmp_path / "out", *key)


@pytest.mark.parametrize("verb", ["import", "quantize"])
def test_a_sentencepiece_model_that_is_cut_is_refused(folder, tmp_path, key, verb):
    pieces = io.BytesIO()
    text = (SOURCE / "README.md").read_text().splitlines()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(text), model_writer=pieces, vocab_size=256, hard_vocab_limit=False, minloglevel=2)
    words = {"import": ["import", "--path", folder, "--out"], "quantize": ["quantize", folder]}[verb]
    model = pieces.getvalue()
    for size in (0, 1, 3000, len(model) - 1):
        (folder / "tokenizer.model").write_bytes(model[:size])
        with pytest.raises(Exception):
            sentencepiece.SentencePieceProcessor(model_proto=model[:size]).encode("a")
        assert "tokenizer.model" in overproof(*words, tmp_path / "out", *key, code=3).stderr
        assert not (tmp_path / "out").exists()
    (folder / "tokenizer.model").write_bytes(model)
    overproof(*words, tmp_path / "out", *key)
    (folder / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")  # Llama 3's is a file of tiktoken
    overproof(*words, tmp_path / "ranks", *key)
