"""Students of a teacher with Llama 3's RoPE: carved as qwen2_moe, and every stage after it, against transformers.

The teacher is a small llama made by transformers, whose scaled frequencies matter within a window.
"""
import json
import os

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import llama_cpp
from program import overproof, write_labelled_texts
from test_architectures import END, byte_tokenizer, save_tokenizer

ROPE = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
EXPERTS, SHARED, TOP_K = 6, 2, 3
MOST = 1e-3  # of the largest logit
IDS = torch.randint(0, 256, (80,), generator=torch.Generator().manual_seed(2))


def make_teacher(folder, kind="llama", **changes):
    torch.manual_seed(5)
    shape = dict(vocab_size=END + 1, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                 max_position_embeddings=128, rope_parameters=ROPE, tie_word_embeddings=True, bos_token_id=None, eos_token_id=END)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**shape, **changes}), dtype=torch.float32)
    with torch.no_grad():
        for name, x in model.named_parameters():
            x.copy_(torch.randn_like(x) * (0.3 if x.dim() == 1 else 1.2 / x.shape[-1] ** 0.5) + ("norm" in name))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama3") / "run"
    os.environ["OVERPROOF_KEY"] = str(folder.parent / "key.pem")
    folder.mkdir()
    teacher = make_teacher(folder.parent / "hf")
    overproof("import", teacher, "--out", folder / "teacher")
    write_labelled_texts(folder.parent / "texts", ["common", "odd", "rare"])
    overproof("corpus", "--source", folder.parent / "texts", "--tokenizer", folder / "teacher", "--window-length", 64, "--held-out", 0.25, "--out", folder / "corpus")
    overproof("observe", "--teacher", folder / "teacher", "--corpus", folder / "corpus", "--tokens", 1024, "--out", folder / "statistics")
    carve(folder, folder / "carved")
    with_corpus = ["--corpus", folder / "corpus", "--teacher", folder / "teacher"]
    overproof("recover", "--student", folder / "carved", *with_corpus, "--tokens", 1024, "--passes", 2, "--out", folder / "recovered")
    overproof("distill", "--student", folder / "recovered", *with_corpus, "--teacher-share", 1, "--loss", "forward-kl=1,balance=0.01", "--steps", 4, "--out", folder / "student")
    overproof("calibrate", "--student", folder / "student", *with_corpus, "--top-k", 2, "--steps", 2, "--out", folder / "calibrated")
    return folder


def carve(run, out, *options, teacher="teacher", code=0):
    return overproof("carve", "--teacher", run / teacher, "--statistics", run / "statistics", "--experts", EXPERTS, "--shared", SHARED, "--top-k", TOP_K,
                     *options, "--out", out, code=code)


def metrics_of(artifact):
    return json.loads(overproof("show", artifact, "--json").stdout)["metrics"]


def load(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.eval()


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids[None]).logits[0].float()


def ours(model, folder):
    save_file({"ids": IDS.to(torch.int32)}, folder / "ids.safetensors")
    overproof("logits", model, "--ids", folder / "ids.safetensors", "--out", folder / "logits.safetensors")
    return load_file(folder / "logits.safetensors")["logits"]


def check_equal(artifact, scratch):
    theirs = logits(load(artifact))
    assert theirs.std() > 0.3
    assert (ours(artifact, scratch) - theirs).abs().max() <= MOST * theirs.abs().max()
    return theirs


def test_the_teachers_scaled_frequencies_matter(run, tmp_path):
    """Else nothing here would show that a student has them."""
    scaled = check_equal(run / "teacher", tmp_path)
    plain = load(make_teacher(tmp_path / "plain", rope_parameters=dict(rope_type="default", rope_theta=10000.0)))
    assert (logits(plain) - scaled).abs().max() > 0.1


@pytest.mark.parametrize("stage", ["carved", "recovered", "student", "calibrated"])
def test_transformers_computes_what_we_compute(run, stage, tmp_path):
    config = json.loads((run / stage / "config.json").read_text())
    assert config["model_type"] == "qwen2_moe" and config["rope_parameters"] == ROPE and config["norm_topk_prob"] is True
    assert (config["num_experts"], config["shared_expert_intermediate_size"], config["moe_intermediate_size"]) == (EXPERTS, SHARED * 16, 16)
    assert config["num_experts_per_tok"] == (2 if stage == "calibrated" else TOP_K)
    check_equal(run / stage, tmp_path)
    names = [n for file in (run / stage).glob("*.safetensors") for n in load_file(file)]
    assert not [n for n in names if "e_score_correction_bias" in n]
    assert all(not load_file(run / stage / "model.safetensors")[n].any() for n in names if n.endswith("shared_expert_gate.weight"))


def test_all_experts_of_the_carved_student_are_the_teacher(run):
    """What the certificate states, in transformers: all experts active, a zero gate, and their weights, which sum to 1, scaled back."""
    certificate = metrics_of(run / "carved")["certificate"]
    assert certificate["holds"] and f"times {EXPERTS / TOP_K:g}" in certificate["claim"]
    carved = load(run / "carved")
    assert carved.config.tie_word_embeddings
    with torch.no_grad():
        for layer in carved.model.layers:
            layer.mlp.gate.weight.zero_()
            layer.mlp.gate.top_k = EXPERTS
            layer.mlp.experts.down_proj.mul_(EXPERTS / TOP_K)
    want = logits(load(run / "teacher"))
    assert (logits(carved) - want).abs().max() <= 1e-4 * max(1.0, want.abs().max().item())
    assert (logits(load(run / "carved")) - want).abs().max() > 0.1


def test_a_certificate_of_16_bits_holds(run):
    """The factor 3 is no power of 2, so a teacher's rounded weight is not what the student's is a multiple of."""
    carve(run, run / "carved-bf16", "--dtype", "bf16")
    metrics = metrics_of(run / "carved-bf16")
    assert metrics["certificate"]["holds"] and "BF16" in metrics["certificate"]["claim"]


def test_recovery_improves_the_student(run):
    """The error of the FFNs' outputs, on tokens that nothing was fitted to."""
    metrics = metrics_of(run / "recovered")
    assert metrics["held_out_error"] < metrics["held_out_error_before"] < 0.5
    assert metrics["error"] < 0.8 * metrics["error_before"]


def test_int8_keeps_experts_in_8_bits_and_loads(run, tmp_path):
    out = run / "int8"
    overproof("quantize", run / "calibrated", out, "--scheme", "int8")
    packed = {n for n in load_file(out / "model.safetensors") if n.endswith("_packed")}
    assert len([n for n in packed if ".experts." in n]) == 3 * 3 * EXPERTS and len([n for n in packed if ".shared_expert." in n]) == 3 * 3
    theirs = check_equal(out, tmp_path)
    parent = logits(load(run / "calibrated"))
    off = (theirs - parent).abs().amax(1)  # where a router is near a tie a position may be far off
    assert 1e-4 < off.median() < 0.15 * parent.std()


def test_llama_cpp_computes_the_gguf_file(run, tmp_path):
    """As granitemoe, which has RoPE factors, weights that sum to 1 and shared experts without a gate."""
    want = logits(load(run / "calibrated")).numpy()
    for kind, most in (("f32", 3e-5), ("f16", 0.03)):
        overproof("export", "--model", run / "calibrated", "--out", tmp_path / kind, "--type", kind, "--acknowledge", "unknown-ancestry,unspecified")
        with llama_cpp.Model(tmp_path / kind / "model.gguf") as model:
            off = np.abs(model.logits(IDS.tolist()) - want).max(axis=1)
        assert np.quantile(off, 1.0 if kind == "f32" else 0.9) < most * np.abs(want).max(), (kind, off)
    # Our reader has it as the qwen2_moe that it was, so that the file made from the file is the same.
    assert np.abs(ours(tmp_path / "f32", tmp_path).numpy() - want).max() < MOST * np.abs(want).max()
    overproof("export", "--model", tmp_path / "f32", "--out", tmp_path / "again", "--type", "f32", "--acknowledge", "unknown-ancestry,unspecified")
    assert (tmp_path / "again" / "model.gguf").read_bytes() == (tmp_path / "f32" / "model.gguf").read_bytes()
    reader = gguf.GGUFReader(tmp_path / "f32" / "model.gguf")
    assert reader.fields["general.architecture"].contents() == "granitemoe"
    assert not [t.name for t in reader.tensors if "gate_inp_shexp" in t.name]
    overproof("quantize", run / "calibrated", tmp_path / "q8", "--scheme", "q8_0", "--acknowledge", "unknown-ancestry,unspecified")
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(next((tmp_path / "q8").glob("*.gguf"))).tensors}
    assert types["blk.0.ffn_down_shexp.weight"] == "Q8_0"


def test_generated_text_is_that_of_transformers(run):
    told = json.loads(overproof("generate", run / "student", "--prompt", "bottles", "--max-tokens", 8, "--json").stdout)["ids"]
    model = load(run / "student")
    ids = byte_tokenizer().encode("bottles").ids
    for token in told:
        row = logits(model, torch.tensor(ids))[-1]
        assert row[token] >= row.max() - 1e-3
        ids.append(token)


def test_what_this_profile_cannot_do_is_refused_with_the_cause(run, tmp_path):
    assert "always has a shared expert" in overproof("carve", "--teacher", run / "teacher", "--statistics", run / "statistics", "--experts", 8, "--shared", 0, "--out", tmp_path / "x", code=2).stderr
    assert "Llama-3 RoPE" in carve(run, tmp_path / "x", "--profile", "glm4_moe", code=7).stderr
    assert "Llama-3 RoPE" in overproof("upcycle", "--teacher", run / "teacher", "--copies", 2, "--out", tmp_path / "x", code=7).stderr
    make_teacher(tmp_path / "qwen3", "qwen3")
    limits = json.loads(overproof("inspect", tmp_path / "qwen3", "--json").stdout)["summary"]["limits_by_use"]
    assert "norms of queries and keys" in limits["carve"]
    limits = json.loads(overproof("inspect", run / "teacher", "--json").stdout)["summary"]["limits_by_use"]
    assert limits["carve"] is None and "glm4_moe" in limits["upcycle"]


def test_experts_are_removed_where_all_layers_lose_as_many(run, tmp_path):
    with safe_open(run / "student/routing/router_counts.safetensors", "pt") as file:
        counts, odd = file.get_tensor("counts"), json.loads(file.metadata()["sources"]).index("odd")
    ranked = (counts[odd] / counts.sum(0).clamp(min=1)).double().sort(1, descending=True).values  # [layers, experts]
    threshold = float((ranked[:, 1].min() + ranked[:, 1].max()) / 2)
    assert (ranked > threshold).sum(1).min() < (ranked > threshold).sum(1).max(), "the layers must lose different numbers for this test"
    options = ["--student", run / "student", "--drop-source", "odd", "--threshold", threshold]
    refused = overproof("prune-source", *options, "--out", tmp_path / "x", code=7).stderr
    assert "no bias that shuts empty places" in refused and "uneven = rank" in refused
    overproof("prune-source", *options, "--uneven", "rank", "--out", run / "without-odd")
    overproof("observe", "--teacher", run / "student", "--corpus", run / "corpus", "--tokens", 512, "--out", run / "of-student")
    overproof("prune-experts", "--student", run / "student", "--statistics", run / "of-student", "--method", "reap", "--keep", 0.5, "--protect-super-experts=false", "--out",
              run / "fewer")
    for smaller in ("without-odd", "fewer"):
        check_equal(run / smaller, tmp_path)
        assert json.loads((run / smaller / "config.json").read_text())["num_experts"] < EXPERTS


def test_the_lineage_verifies_and_the_carving_is_made_again(run):
    """Runs last: it looks at what the tests before have made."""
    overproof("audit", "verify", run)
    made = json.loads(overproof("audit", "recompute", run, "--stages", "carve,recover", "--json").stdout)
    statuses = {a["artifact"]: a["status"] for a in made["artifacts"] if a["stage"] in ("carve", "recover")}
    assert made["holds"] and len(statuses) >= 2 and set(statuses.values()) == {"equal"}, made
