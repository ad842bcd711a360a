"""Every 8-bit scheme in the loaders that take it, for a dense llama and the glm4_moe student; the others against the loader's own schema.

transformers + compressed-tensors compute on the CPU with the activations rounded as the checkpoint says, and so do we; both are
compared, not with each other's rounding noise, but with the fp32 parent: the two 8-bit models must lie closer to each other than to it.
"""
import json
import os

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Glm4MoeConfig, LlamaConfig

from program import SOURCE, overproof

COMMON = dict(vocab_size=512, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
              max_position_embeddings=256, bos_token_id=1, eos_token_id=2)
CONFIGS = {
    "llama": LlamaConfig(intermediate_size=256, tie_word_embeddings=False, **COMMON),
    "glm4_moe": Glm4MoeConfig(intermediate_size=256, moe_intermediate_size=128, n_routed_experts=5, n_shared_experts=1, num_experts_per_tok=5,
                              first_k_dense_replace=0, n_group=1, topk_group=1, norm_topk_prob=False, routed_scaling_factor=2.0,
                              partial_rotary_factor=1.0, use_qk_norm=False, attention_bias=False, num_nextn_predict_layers=0,
                              tie_word_embeddings=False, **COMMON),  # all experts active: near a tie, rounding would choose another function
}
# What transformers 5.23 with compressed-tensors 0.20 computes on a CPU. The rest needs a GPU runtime: checked by schema below.
LOADS = {"llama": ["int8", "int8-g128", "w8a8", "fp8", "fp8-native"], "glm4_moe": ["int8", "int8-g128", "fp8", "fp8-native"]}
SCHEMA_ONLY = {"llama": ["fp8-block"], "glm4_moe": ["w8a8", "fp8-block"]}
SAFETENSORS = ["int8", "int8-g128", "w8a8", "fp8", "fp8-block", "fp8-native", "mxfp8"]


def of_each(schemes):
    """Parameters of `case` and `scheme` for the pairs of a table."""
    return pytest.mark.parametrize("case, scheme", [(kind, scheme) for kind, listed in schemes.items() for scheme in listed], indirect=["case"])


def make(config, folder):
    """The model in folder/fp32, and ids to try it on."""
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.08 if parameter.ndim > 1 else 0.2) + (parameter.ndim == 1))
    model.eval().save_pretrained(folder / "fp32")
    save_file({"ids": torch.randint(3, 512, (1, 96))}, folder / "ids.safetensors")
    return model


def load(checkpoint, **options):
    # transformers leaves the tables of an fp8 checkpoint in their type and makes the other weights in the one that is asked for, so an fp8-native
    # checkpoint is loaded as users do, in the type of its config.json.
    native = json.loads((checkpoint / "config.json").read_text()).get("quantization_config", {}).get("quant_method") == "fp8"
    loaded, info = AutoModelForCausalLM.from_pretrained(checkpoint, output_loading_info=True, **{**({} if native else {"dtype": torch.float32}), **options})
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return loaded.eval()


@pytest.fixture(scope="module", params=CONFIGS)
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, make(CONFIGS[request.param], folder)


def quantised(folder, scheme):
    if not (folder / scheme).exists():
        overproof("quantize", folder / "fp32", folder / scheme, "--scheme", scheme)
    return folder / scheme


def whole_blocks(parent):
    """The Linear weights that loaders of 128 x 128 blocks take: both dimensions are multiples, of the weight and of those fused with it."""
    def unit(name):
        stem, _, module = name.removesuffix(".weight").rpartition(".")
        if ".experts." in name:
            return name.partition(".experts.")[0] + ".experts"
        return stem + (".qkv" if module in ("q_proj", "k_proj", "v_proj") else ".gate_up" if module in ("gate_proj", "up_proj") else "." + module)
    linear = [n for n in parent if n.endswith("_proj.weight")]
    broken = {unit(n) for n in linear if any(size % 128 for size in parent[n].shape)}
    return {n for n in linear if unit(n) not in broken}


def ours(folder, checkpoint):
    overproof("logits", checkpoint, "--ids", folder / "ids.safetensors", "--out", folder / "logits.safetensors")
    return load_file(folder / "logits.safetensors")["logits"]


def theirs(folder, model):
    with torch.no_grad():
        return model(load_file(folder / "ids.safetensors")["ids"]).logits[0].float()


def distance(a, b):
    return ((a - b).pow(2).mean().sqrt() / b.std()).item()


@pytest.mark.parametrize("scheme", SAFETENSORS)
def test_our_own_reading_is_near_the_parent(case, scheme):
    kind, folder, model = case
    away = distance(ours(folder, quantised(folder, scheme)), theirs(folder, model))
    assert 1e-4 < away < (0.04 if scheme.startswith("int8") else 0.25), away


@of_each(LOADS)
def test_transformers_computes_the_same(case, scheme):
    _, folder, model = case
    peer, own, parent = theirs(folder, load(quantised(folder, scheme))), ours(folder, folder / scheme), theirs(folder, model)
    # Weights alone in 8 bits: the same function up to summation order. Rounded activations flip a code here and there.
    # fp8-native without a GPU is computed by transformers with dequantised weights and unrounded activations.
    exact = scheme.startswith("int8")
    closer = 0.8 if scheme == "fp8-native" else 0.6
    assert distance(own, peer) < (1e-4 if exact else closer * distance(own, parent)), (distance(own, peer), distance(own, parent))


def rounded_mx(x):
    """Inputs as OCP MXFP8 with compressed-tensors' exponent (one more from 1.75 times a power of two on), in plain torch."""
    groups = x.reshape(*x.shape[:-1], -1, 32)
    exponent = ((groups.abs().amax(-1, keepdim=True).view(torch.int32) + 0x200000) >> 23) - 8
    scale = torch.pow(2.0, exponent.clamp(min=0).float() - 127)
    return ((groups / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale).reshape(x.shape)


def test_mxfp8_loads_dense_in_bf16_with_the_very_weights(case):
    """compressed-tensors 0.20 decompresses it to bf16, which holds the weights exactly, and rounds activations as we do. In f32 its Linear
    layers get bf16 weights and fail, and transformers' experts take no scale that is not one a row."""
    kind, folder, model = case
    checkpoint = quantised(folder, "mxfp8")
    if kind == "glm4_moe":
        with pytest.raises(RuntimeError, match="automatic conversion of the weights"):
            load(checkpoint, dtype=torch.bfloat16)
        return
    stored = load_file(checkpoint / "model.safetensors")
    linear = [n.removesuffix(".weight_scale") for n in stored if n.endswith(".weight_scale")]
    weight = {n: (stored[n + ".weight"].float().unflatten(1, (-1, 32)) * torch.pow(2.0, stored[n + ".weight_scale"].float() - 127)[..., None]).flatten(1)
              for n in linear}
    loaded = load(checkpoint, dtype=torch.bfloat16)
    peer = theirs(folder, loaded)
    dense = {dtype: AutoModelForCausalLM.from_pretrained(folder / "fp32", dtype=dtype).eval() for dtype in (torch.bfloat16, torch.float32)}
    for by_hand in dense.values():
        with torch.no_grad():
            for n in linear:
                by_hand.get_submodule(n).weight.copy_(weight[n])
            for n in ("model.embed_tokens", "lm_head"):  # kept, in 16 bits
                by_hand.get_submodule(n).weight.copy_(stored[n + ".weight"].float())
    for n in linear:
        assert torch.equal(loaded.get_submodule(n).weight.float(), weight[n]), n
    for by_hand in dense.values():
        for n in linear:
            by_hand.get_submodule(n).register_forward_pre_hook(lambda _, inputs: (rounded_mx(inputs[0].float()).to(inputs[0].dtype),))
    assert distance(peer, theirs(folder, dense[torch.bfloat16])) == 0
    assert distance(ours(folder, checkpoint), theirs(folder, dense[torch.float32])) < 1e-5
    with pytest.raises(RuntimeError, match="same dtype"):
        theirs(folder, load(checkpoint))


@pytest.mark.parametrize("options", [[], ["--asymmetric"], ["--smooth"]], ids=["symmetric", "asymmetric", "smooth"])
def test_static_activations_load_and_agree(tmp_path, options):
    """w8a8-static of the tiny teacher: transformers + compressed-tensors round inputs by the recorded range, as we do."""
    os.environ["OVERPROOF_KEY"] = str(tmp_path / "key.pem")
    overproof("tiny-teacher", "--out", tmp_path / "teacher")
    overproof("corpus", "--source", SOURCE / "examples" / "texts", "--tokenizer", tmp_path / "teacher", "--window-length", 64, "--out", tmp_path / "corpus")
    overproof("activations", "--model", tmp_path / "teacher", "--corpus", tmp_path / "corpus", "--tokens", 512, "--out", tmp_path / "activations")
    overproof("quantize", tmp_path / "teacher", tmp_path / "static", "--scheme", "w8a8-static", "--activations", tmp_path / "activations", *options)
    save_file({"ids": torch.randint(0, 256, (1, 96), generator=torch.Generator().manual_seed(1))}, tmp_path / "ids.safetensors")
    stored = load_file(tmp_path / "static" / "model.safetensors")
    assert sum(n.endswith(".input_scale") for n in stored) == 28 and any(n.endswith("zero_point") for n in stored) == (options == ["--asymmetric"])
    parent = theirs(tmp_path, AutoModelForCausalLM.from_pretrained(tmp_path / "teacher", dtype=torch.float32).eval())
    peer, own = theirs(tmp_path, load(tmp_path / "static")), ours(tmp_path, tmp_path / "static")
    assert distance(own, parent) > 0.01
    # By token. A value near a tie may fall to the other side; the tokens after it then attend to one that is a code off, so only those before
    # the first such are equal but for sums' order. None may be as far from the peer as eight bits are from the parent.
    relative = ((own - peer).pow(2).mean(-1) / (peer - parent).pow(2).mean(-1)).sqrt().flatten()
    assert (relative[:8] < 1e-4).sum() >= 7 and relative[:8].max().item() < 0.1 and relative.median().item() < 0.1 and relative.max().item() < 1, relative
    if not options:  # llama.cpp rounds activations in its own way: the ranges stay behind, the weights do not
        told = overproof("export", "--model", tmp_path / "static", "--type", "f32", "--out", tmp_path / "gguf").stdout
        assert "not written: 28 scales by which the model's quantizer rounds activations" in told
        name = "model.layers.1.self_attn.v_proj.weight"
        written = next(t.data for t in GGUFReader(tmp_path / "gguf" / "model.gguf").tensors if t.name == "blk.1.attn_v.weight")
        assert torch.equal(torch.from_numpy(written.copy()), stored[name].float() * stored[name + "_scale"].float())


# What 128 does not divide: rows of 192 at a hidden size of 192, and with them whole experts, while shared experts' down_proj has
# groups; the rows of the experts' down_proj alone, while shared experts' gate and up have groups; the rows of o_proj.
RAGGED = {"llama": dict(hidden_size=192), "glm4_moe": dict(hidden_size=192), "glm4_moe-narrow": dict(moe_intermediate_size=96),
          "glm4_moe-attention": dict(head_dim=24)}


@pytest.mark.parametrize("kind", RAGGED)
def test_rows_that_groups_do_not_divide_have_a_group_of_their_own(kind, tmp_path):
    config = CONFIGS[kind.split("-")[0]].to_dict() | RAGGED[kind]
    model = make(type(CONFIGS[kind.split("-")[0]])(**config), tmp_path)
    done = json.loads(overproof("quantize", tmp_path / "fp32", tmp_path / "int8-g128", "--scheme", "int8-g128", "--json").stdout)
    tensors, parent = load_file(tmp_path / "int8-g128" / "model.safetensors"), load_file(tmp_path / "fp32" / "model.safetensors")
    linear = {n for n in parent if n.endswith(("_proj.weight", "lm_head.weight"))}
    width = {n: tensors[n + "_scale"].shape[1] for n in linear}
    by_row = {n for n in linear if width[n] == 1 and parent[n].shape[1] != 128}
    ragged = {n for n in linear if parent[n].shape[1] % 128}
    experts = {n.rpartition(".")[0].rpartition(".")[0] for n in ragged if ".experts." in n}
    fallen = ragged | {n for n in linear if n.rpartition(".")[0].rpartition(".")[0] in experts}
    assert ragged and by_row == {n for n in fallen if parent[n].shape[1] != 128} and set(done["metrics"]["fallen_back"]) == fallen
    assert all(width[n] == parent[n].shape[1] // 128 for n in linear - fallen) and linear - fallen
    assert done["metrics"]["quantised"] == len(linear) and any("int8-g128 cannot hold them" in note for note in done["metrics"]["notes"])
    groups = json.loads((tmp_path / "int8-g128" / "config.json").read_text())["quantization_config"]["config_groups"]
    assert sorted(g["weights"]["strategy"] for g in groups.values()) == ["channel", "group"]
    peer = theirs(tmp_path, load(tmp_path / "int8-g128"))
    assert distance(ours(tmp_path, tmp_path / "int8-g128"), peer) < 1e-4
    assert 1e-4 < distance(peer, theirs(tmp_path, model)) < 0.04


# Shapes as models have them. `demo` is SmolLM2-135M's student: 576 and 96, of which 128 divides neither.
SHAPES = {"llama-inner": ("llama", dict(hidden_size=256, head_dim=64, intermediate_size=320)),
          "llama-width": ("llama", dict(hidden_size=192, head_dim=48, intermediate_size=384)),
          "demo": ("glm4_moe", dict(hidden_size=576, num_attention_heads=9, num_key_value_heads=3, head_dim=64, moe_intermediate_size=96))}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_that_128_does_not_divide_load_or_are_refused(shape, tmp_path):
    kind, change = SHAPES[shape]
    model = make(type(CONFIGS[kind])(**(CONFIGS[kind].to_dict() | change)), tmp_path)
    parent = load_file(tmp_path / "fp32" / "model.safetensors")
    held = whole_blocks(parent)
    for scheme in LOADS[kind]:
        if scheme == "fp8-native" and not held:
            assert "multiples of 128" in overproof("quantize", tmp_path / "fp32", tmp_path / scheme, "--scheme", scheme, code=2).stderr
            continue
        answer = json.loads(overproof("quantize", tmp_path / "fp32", tmp_path / scheme, "--scheme", scheme, "--json").stdout)
        if scheme == "fp8-native":
            tensors = load_file(tmp_path / scheme / "model.safetensors")
            assert {n.removesuffix("_scale_inv") for n in tensors if n.endswith("_scale_inv")} == held
            # One type for all that is computed: kept weights, norms and config.json; routers stay f32.
            assert all(t.dtype == (torch.float32 if "gate.weight" in n or "correction_bias" in n or n.endswith("_scale_inv") else torch.bfloat16)
                       for n, t in tensors.items() if t.dtype != torch.float8_e4m3fn)
            assert json.loads((tmp_path / scheme / "config.json").read_text())["dtype"] == "bfloat16"
            assert set(answer["metrics"]["not_taken"]) == {n for n in parent if n.endswith("_proj.weight")} - held
        peer, own, fp32 = theirs(tmp_path, load(tmp_path / scheme)), ours(tmp_path, tmp_path / scheme), theirs(tmp_path, model)
        closer = 0.8 if scheme == "fp8-native" else 0.6
        assert distance(own, peer) < (1e-4 if scheme.startswith("int8") else closer * distance(own, fp32)), scheme


@of_each(SCHEMA_ONLY)
def test_what_needs_a_gpu_keeps_to_the_loaders_schema(case, scheme):
    from compressed_tensors.quantization import QuantizationConfig
    kind, folder, _ = case
    checkpoint = quantised(folder, scheme)
    written = json.loads((checkpoint / "config.json").read_text())["quantization_config"]
    parsed = QuantizationConfig.model_validate(written)
    group = parsed.config_groups["group_0"]
    assert group.weights.num_bits == 8 and group.input_activations.dynamic and group.targets == ["Linear"]
    tensors = load_file(checkpoint / "model.safetensors")
    parent = load_file(folder / "fp32" / "model.safetensors")
    linear = [n for n in parent if n.endswith("_proj.weight")]
    assert len(linear) == {"llama": 14, "glm4_moe": 8 + 2 * 3 * 6}[kind]
    held = whole_blocks(parent) if scheme == "fp8-block" else set(linear)
    assert held and (held != set(linear)) == (scheme == "fp8-block")
    for name in held:
        rows, columns = parent[name].shape
        wanted = [rows // 128, columns // 128] if scheme == "fp8-block" else [rows, 1]
        assert list(tensors[name + "_scale"].shape) == wanted and tensors[name + "_scale"].dtype == torch.float32
        assert tensors[name].dtype == (torch.float8_e4m3fn if scheme == "fp8-block" else torch.int8)
    assert set(tensors) == set(parent) | {n + "_scale" for n in held}
    assert {n.removesuffix(".weight") for n in set(linear) - held} <= set(written["ignore"])


@pytest.mark.parametrize("fault", ["flipped", "truncated"])
def test_a_damaged_parent_is_refused(case, fault):
    kind, folder, _ = case
    parent = folder / f"parent-{fault}"
    overproof("import", "--path", folder / "fp32", "--out", parent, "--license", "MIT")
    file = parent / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content if fault == "flipped" else content[:-7])
    answer = overproof("quantize", parent, folder / "never", code=None)
    assert answer.returncode in (3, 4) and "model.safetensors" in answer.stderr
    assert not (folder / "never").exists()


def test_quality_is_measured_bounded_and_budgeted(tmp_path):
    """On the tiny teacher that the repository makes: KL in the lineage, a bound that stops, a budget that is kept."""
    key = ["--key", tmp_path / "key.pem"]
    overproof("tiny-teacher", "--out", tmp_path / "teacher", *key)
    text = ["--text", SOURCE / "examples" / "texts", "--evaluate-tokens", 512]
    measured = json.loads(overproof("quantize", tmp_path / "teacher", tmp_path / "fp8", "--scheme", "fp8", "--evaluate", *text, *key, "--json").stdout)
    quality = measured["metrics"]["quality"]
    assert quality["tokens"] == 512 and 0 < quality["kl_mean"] < quality["kl_p99"] and 0 < quality["top1_agreement"] <= 1
    bound = quality["kl_mean"] / 4
    answer = overproof("quantize", tmp_path / "teacher", tmp_path / "no", "--scheme", "fp8", "--max-kl", bound, *text, *key, code=6)
    assert "max-kl" in answer.stderr and "dB" in answer.stderr and not (tmp_path / "no").exists()
    mixed = json.loads(overproof("quantize", tmp_path / "teacher", tmp_path / "mixed", "--scheme", "fp8", "--kl-budget", bound, *text, *key, "--json").stdout)
    metrics = mixed["metrics"]
    assert metrics["quality"]["kl_mean"] <= bound and metrics["kept_for_budget"] and metrics["quantised"] > 0
    kept = load_file(tmp_path / "mixed" / "model.safetensors")
    for name in metrics["kept_for_budget"]:
        assert kept[name].dtype == torch.bfloat16
    answer = overproof("quantize", tmp_path / "teacher", tmp_path / "no", "--evaluate", *key, code=2)
    assert "--corpus" in answer.stderr and "--text" in answer.stderr
