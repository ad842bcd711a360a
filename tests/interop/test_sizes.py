"""Students of a bf16 teacher with one table for embedding and head: their type, tying and size, in transformers, compressed-tensors and llama.cpp."""
import base64
import json
import os
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

import llama_cpp
from program import SOURCE, overproof

VOCABULARY, HIDDEN = 257, 64
TABLE = VOCABULARY * HIDDEN  # elements
IDS = torch.randint(0, 256, (80,), generator=torch.Generator().manual_seed(5))
TRAINING = ["--steps", 6, "--batch-size", 2, "--warmup", 1, "--digest-every", 2]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tied bf16 teacher with the byte tokenizer, what it taught, and a student with its own head and one without."""
    folder = tmp_path_factory.mktemp("sizes")
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    overproof("tiny-teacher", "--out", folder / "tokenizer")
    torch.manual_seed(3)
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=512, bos_token_id=256, eos_token_id=256, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * (1.5 / p.shape[-1] ** 0.5 if p.ndim > 1 else 0.1) + (p.ndim == 1))
    model.to(torch.bfloat16).save_pretrained(folder / "hf")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / "tokenizer" / name, folder / "hf" / name)
    overproof("import", "--path", folder / "hf", "--out", folder / "teacher", "--license", "Apache-2.0")
    corpus = ["--corpus", folder / "corpus"]
    overproof("corpus", "--source", SOURCE / "examples" / "texts", "--tokenizer", folder / "teacher", "--window-length", 64, "--out", folder / "corpus")
    overproof("observe", "--teacher", folder / "teacher", *corpus, "--tokens", 512, "--out", folder / "statistics")
    overproof("teach", "--teacher", folder / "teacher", *corpus, "--tokens", 768, "--out", folder / "targets")
    for tie in ("auto", "yes"):
        carved = overproof("carve", "--teacher", folder / "teacher", "--statistics", folder / "statistics", "--experts", 7, "--top-k", 2, "--tie", tie,
                           "--out", folder / f"carved-{tie}")
        assert ("tie = yes would save" in carved.stdout) == (tie == "auto")
        overproof("distill", "--student", folder / f"carved-{tie}", "--targets", folder / "targets", *corpus, *TRAINING, "--out", folder / f"student-{tie}")
    return folder


def statement(artifact):
    return json.loads(base64.b64decode(json.loads((artifact / "claims.jsonl").read_text().splitlines()[0])["payload"]))


def load(folder, dtype=torch.float32):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.eval()


def theirs(model):
    with torch.no_grad():
        return model(IDS[None]).logits[0].float()


def ours(model, tmp_path):
    save_file({"ids": IDS}, tmp_path / "ids.safetensors")
    overproof("logits", model, "--ids", tmp_path / "ids.safetensors", "--out", tmp_path / "logits.safetensors")
    return load_file(tmp_path / "logits.safetensors")["logits"]


@pytest.mark.parametrize("stage", ["carved-auto", "carved-yes", "student-auto", "student-yes"])
def test_students_have_their_teachers_type_and_load(world, stage, tmp_path):
    tensors = load_file(world / stage / "model.safetensors")
    tied = stage.endswith("yes")
    assert {t.dtype for n, t in tensors.items() if ".mlp.gate." not in n} == {torch.bfloat16}
    assert {t.dtype for n, t in tensors.items() if ".mlp.gate." in n} == {torch.float32}
    config = json.loads((world / stage / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and config["tie_word_embeddings"] == tied == ("lm_head.weight" not in tensors)
    model = load(world / stage)
    assert (model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()) == tied
    assert (theirs(model) - ours(world / stage, tmp_path)).abs().max() < 1e-3
    assert AutoModelForCausalLM.from_pretrained(world / stage, dtype="auto").dtype == torch.bfloat16


def test_tying_saves_one_table_and_changes_nothing_else(world, tmp_path):
    two, one = (load_file(world / f"carved-{tie}" / "model.safetensors") for tie in ("auto", "yes"))
    assert set(two) - set(one) == {"lm_head.weight"} and torch.equal(two["lm_head.weight"], two["model.embed_tokens.weight"])
    assert all(torch.equal(two[n], one[n]) for n in one)
    assert torch.equal(ours(world / "carved-auto", tmp_path), ours(world / "carved-yes", tmp_path))
    assert f"{TABLE * 2}" in json.dumps(statement(world / "carved-auto"))


def test_a_teacher_with_a_head_of_its_own_cannot_be_tied(world, tmp_path):
    model = load(world / "hf")
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight + 0.5)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "hf")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(world / "hf" / name, tmp_path / "hf" / name)
    overproof("import", "--path", tmp_path / "hf", "--out", tmp_path / "teacher", "--license", "MIT")
    overproof("observe", "--teacher", tmp_path / "teacher", "--corpus", world / "corpus", "--tokens", 256, "--out", tmp_path / "statistics")
    words = ["carve", "--teacher", tmp_path / "teacher", "--statistics", tmp_path / "statistics", "--experts", 7, "--top-k", 2]
    assert "tie" in overproof(*words, "--tie", "yes", "--out", tmp_path / "no", code=7).stderr
    overproof("prune-neurons", *words[1:5], "--keep", "0.5", "--out", tmp_path / "pruned")
    assert not json.loads((tmp_path / "pruned" / "config.json").read_text())["tie_word_embeddings"]


@pytest.mark.parametrize("tie", ["auto", "yes"])
def test_the_baseline_has_the_type_and_the_tables_that_are_asked_for(world, tie, tmp_path):
    words = ["prune-neurons", "--teacher", world / "teacher", "--statistics", world / "statistics", "--keep", "0.5"]
    overproof(*words, "--tie", {"auto": "auto", "yes": "no"}[tie], "--out", tmp_path / "pruned")
    tensors = load_file(tmp_path / "pruned" / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16} and ("lm_head.weight" in tensors) == (tie == "yes")
    assert (theirs(load(tmp_path / "pruned")) - ours(tmp_path / "pruned", tmp_path)).abs().max() < 1e-3


@pytest.mark.parametrize("tie", ["auto", "yes"])
def test_int8_takes_the_head_where_there_is_one(world, tie, tmp_path, caplog):
    student = world / f"student-{tie}"
    done = overproof("quantize", student, tmp_path / "int8")
    raw = load_file(tmp_path / "int8" / "model.safetensors")
    assert ("lm_head.weight_packed" in raw) == (tie == "auto") and raw["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert "model.embed_tokens.weight as BF16" in done.stdout and "of the teacher in bf16" in done.stdout
    model = load(tmp_path / "int8")
    assert "Could not match" not in caplog.text
    assert (theirs(model) - ours(tmp_path / "int8", tmp_path)).abs().max() < 1e-3
    apart = (theirs(model) - theirs(load(student))).abs().mean(-1)  # of a position; near a tie of a router it may be far
    assert 1e-4 < apart.median() < 0.1, apart


@pytest.mark.parametrize("tie", ["auto", "yes"])
def test_gguf_loads_in_llama_cpp(world, tie, tmp_path):
    student = world / f"student-{tie}"
    overproof("export", student, tmp_path / "f32", "--type", "f32", "--acknowledge", "unspecified,notice")
    want = theirs(load(student)).numpy()
    with llama_cpp.Model(tmp_path / "f32" / "model.gguf") as model:
        assert abs(model.logits(IDS.tolist()) - want).max() < 1e-3
    overproof("quantize", student, tmp_path / "q8_0", "--scheme", "q8_0", "--acknowledge", "unspecified,notice")
    with llama_cpp.Model(tmp_path / "q8_0" / "model.gguf") as model:
        off = abs(model.logits(IDS.tolist()) - want).mean(axis=1)  # llama.cpp rounds activations to 8 bits, too
    assert sorted(off)[len(off) // 2] < 0.1 * want.std()


@pytest.mark.parametrize("stage", ["student-auto", "student-yes"])
def test_the_training_of_a_bf16_student_is_replayed(world, stage):
    metrics = json.dumps(statement(world / stage))
    assert "published_weights" in metrics and '"dtype": "BF16"' in metrics
    for tolerance in ("bitwise", "1e-4"):
        found = json.loads(overproof("audit", "replay", world / stage, "--segments", 9, "--seed", "c0ffee", "--tolerance", tolerance, "--json").stdout)
        assert found["holds"], found


def test_f32_is_written_where_it_is_asked_for_or_the_teachers(world, tmp_path):
    words = ["distill", "--student", world / "carved-auto", "--targets", world / "targets", "--corpus", world / "corpus", *TRAINING]
    overproof(*words, "--dtype", "f32", "--out", tmp_path / "wide")
    with safe_open(tmp_path / "wide" / "model.safetensors", "pt") as file:
        assert {file.get_slice(n).get_dtype() for n in file.keys()} == {"F32"}
    narrow, wide = load_file(world / "student-auto" / "model.safetensors"), load_file(tmp_path / "wide" / "model.safetensors")
    assert all(torch.equal(wide[n].to(t.dtype), t) for n, t in narrow.items())  # the same training, rounded once
    overproof(*words, "--dtype", "f16", "--out", tmp_path / "half")
    assert load_file(tmp_path / "half" / "model.safetensors")["model.embed_tokens.weight"].dtype == torch.float16
    assert (theirs(load(tmp_path / "half")) - ours(tmp_path / "half", tmp_path)).abs().max() < 1e-3
    next_of_half = ["distill", "--student", tmp_path / "half", *words[3:], "--out", tmp_path / "next"]
    overproof(*next_of_half)
    assert load_file(tmp_path / "next" / "model.safetensors")["lm_head.weight"].dtype == torch.float16
