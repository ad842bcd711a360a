#!/usr/bin/env python3
"""8-bit checkpoints as compressed-tensors and transformers write them, and the weights that these make of them.

Each folder is a checkpoint; expected.safetensors in it holds every tensor in f32, the quantised ones decompressed by the peer's own
code. matching.json says which modules the peers take for quantised. Run in this folder; needs torch, safetensors,
compressed-tensors and transformers.
"""
import hashlib
import json
import pathlib
import shutil

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from compressed_tensors.utils.match import is_match, match_targets
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight
from transformers.quantizers.quantizers_utils import should_convert_module

here = pathlib.Path(__file__).parent
torch.manual_seed(11)
DYNAMIC = dict(num_bits=8, type="int", strategy="token", dynamic=True)
STATIC = dict(num_bits=8, type="int", strategy="tensor", dynamic=False, symmetric=False)


def parameters(weight, args):
    """Scale and zero point shaped as the peer has them, from its own calculate_qparams."""
    rows, columns = weight.shape
    if args.strategy == "block":
        r, c = args.block_structure
        padded = torch.zeros(-(-rows // r) * r, -(-columns // c) * c)
        padded[:rows, :columns] = weight
        cut = padded.reshape(padded.shape[0] // r, r, padded.shape[1] // c, c).transpose(1, 2).flatten(2)
    elif args.strategy == "group":
        cut = weight.reshape(rows, -1, args.group_size)
    else:
        cut = weight.reshape(1, 1, -1) if args.strategy == "tensor" else weight.reshape(rows, 1, columns)
    scale, zero = calculate_qparams(cut.amin(-1), cut.amax(-1), args)
    if args.strategy == "tensor":
        scale, zero = scale.reshape(1), zero.reshape(1)
    return scale, zero


def case(name, format, groups, extra=(), ignore=("lm_head",)):
    """groups: name -> (format, targets, weights, input activations, {module: (rows, columns, dtype of the scale)})."""
    stored, expected, schemes = {}, {}, {}
    for tensor, value in extra:
        stored[tensor], expected[tensor] = value, value.float()
    for group, (own_format, targets, weights, inputs, modules) in groups.items():
        args = QuantizationArgs(num_bits=8, **weights)
        scheme = QuantizationScheme(targets=targets, weights=args, input_activations=QuantizationArgs(**inputs) if inputs else None, format=own_format)
        schemes[group] = scheme
        compressor = BaseCompressor.get_value_from_registry(own_format)
        for module, (rows, columns, dtype) in modules.items():
            weight = torch.randn(rows, columns) * (1 + torch.arange(rows).reshape(-1, 1))
            scale, zero = parameters(weight, args)
            state = {"weight": weight, "weight_scale": scale.to(dtype), "weight_zero_point": zero}
            packed = compressor.compress(state, scheme)
            stored |= {f"{module}.{k}": v.contiguous() for k, v in packed.items()}
            # Scales of 16 bits are widened first: the peer would round each product to them.
            wide = {k: v.float() if k == "weight_scale" and v.is_floating_point() else v for k, v in packed.items()}
            made = compressor.decompress(wide, scheme)["weight"]
            if made.dtype == torch.bfloat16:  # MX: the peer makes bf16 of the scale, whose products with 4-bit significands are exact
                made = made.float()
            expected[f"{module}.weight"] = made.contiguous()
            if inputs and not inputs["dynamic"]:
                for suffix, value in (("input_scale", torch.rand(1)), ("input_zero_point", torch.tensor([-3], dtype=torch.int8))):
                    stored[f"{module}.{suffix}"], expected[f"{module}.{suffix}"] = value, value.float()
    config = QuantizationConfig(config_groups=schemes, format=format, quantization_status="compressed", ignore=list(ignore))
    write(name, json.loads(config.model_dump_json()), stored, expected)


def write(name, quantization_config, stored, expected):
    folder = here / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(expected, folder / "expected.safetensors")
    config = {"model_type": "llama", "num_hidden_layers": 2, "quantization_config": quantization_config}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


f32, bf16, f16 = torch.float32, torch.bfloat16, torch.float16
L = "model.layers.0."
norm = ("model.norm.weight", torch.randn(5).to(bf16))
case("int_quantized", "int-quantized", {
    "group_0": ("int-quantized", ["Linear"], dict(type="int", strategy="channel"), DYNAMIC,
                {L + "self_attn.q_proj": (6, 11, f32), L + "self_attn.k_proj": (1, 7, bf16)}),
    "group_1": ("int-quantized", ["re:.*down_proj$"], dict(type="int", strategy="channel", symmetric=False), STATIC,
                {L + "mlp.down_proj": (7, 5, f32), "model.layers.1.mlp.down_proj": (2, 9, f16)}),
    "group_2": ("int-quantized", [L + "mlp.up_proj"], dict(type="int", strategy="group", group_size=4, symmetric=False), DYNAMIC,
                {L + "mlp.up_proj": (3, 12, f32)}),
    "group_3": ("int-quantized", ["re:.*[vo]_proj"], dict(type="int", strategy="tensor"), DYNAMIC,
                {L + "self_attn.v_proj": (3, 4, f32), L + "self_attn.o_proj": (4, 5, f32)}),
}, [norm, (L + "mlp.gate.weight", torch.randn(4, 5))], ["lm_head", "re:.*mlp.gate$"])
case("pack_asymmetric", "pack-quantized", {
    "group_0": ("pack-quantized", ["Linear"], dict(type="int", strategy="channel", symmetric=False), None,
                {L + "self_attn.q_proj": (6, 11, f32), L + "self_attn.k_proj": (4, 8, bf16)}),
    "group_1": ("pack-quantized", ["re:.*mlp.*"], dict(type="int", strategy="group", group_size=8, symmetric=False), None,
                {L + "mlp.up_proj": (5, 24, f32)}),
    "group_2": ("pack-quantized", ["re:.*v_proj"], dict(type="int", strategy="tensor", symmetric=False), None, {L + "self_attn.v_proj": (5, 6, f32)}),
}, [norm])
FP8 = dict(num_bits=8, type="float", strategy="token", dynamic=True)
case("float_quantized", "float-quantized", {
    "group_0": ("float-quantized", ["Linear"], dict(type="float", strategy="channel"), FP8, {L + "self_attn.q_proj": (6, 11, f32), L + "self_attn.k_proj": (2, 3, bf16)}),
    "group_1": ("float-quantized", ["re:.*v_proj"], dict(type="float", strategy="tensor"), FP8, {L + "self_attn.v_proj": (5, 7, f32)}),
    "group_2": ("float-quantized", ["re:.*o_proj"], dict(type="float", strategy="group", group_size=8), FP8, {L + "self_attn.o_proj": (3, 24, f32)}),
    "group_3": ("float-quantized", ["re:.*mlp.up_proj"], dict(type="float", strategy="block", block_structure=[128, 128]), FP8,
                {L + "mlp.up_proj": (130, 140, f32)}),
    "group_4": ("float-quantized", ["re:.*mlp.down_proj"], dict(type="float", strategy="block", block_structure=[4, 8]), FP8,
                {L + "mlp.down_proj": (10, 19, f32), "model.layers.1.mlp.down_proj": (4, 8, f32)}),
}, [norm])
case("naive_quantized", "naive-quantized", {
    "group_0": ("naive-quantized", ["re:.*q_proj"], dict(type="int", strategy="channel"), None, {L + "self_attn.q_proj": (3, 5, f32)}),
    "group_1": ("naive-quantized", ["re:.*v_proj"], dict(type="float", strategy="channel"), None, {L + "self_attn.v_proj": (3, 5, f32)}),
})
MX = dict(type="float", strategy="group", group_size=32, scale_dtype="torch.uint8", zp_dtype="torch.uint8")
case("mxfp8", "mxfp8-quantized", {
    "group_0": ("mxfp8-quantized", ["Linear"], MX, dict(num_bits=8, type="float", strategy="group", group_size=32, dynamic=True, scale_dtype="torch.uint8"),
                {L + "self_attn.q_proj": (3, 64, f32), L + "mlp.up_proj": (5, 96, f32)}),
})
case("mixed_precision", "mixed-precision", {
    "group_0": ("pack-quantized", ["re:.*self_attn.*"], dict(type="int", strategy="channel"), None, {L + "self_attn.q_proj": (3, 5, f32)}),
    "group_1": ("float-quantized", ["re:.*mlp.*"], dict(type="float", strategy="channel"), FP8, {L + "mlp.up_proj": (3, 5, f32)}),
})

# DeepSeek's layout: the scale multiplies in spite of its name. Shapes that blocks do not divide, and scales in powers of two as bytes.
stored, expected = {norm[0]: norm[1], "lm_head.weight": torch.randn(3, 5)}, {}
expected = {k: v.float() for k, v in stored.items()}
for module, rows, columns, scale_type in [("self_attn.q_proj", 130, 140, f32), ("self_attn.k_proj", 128, 256, f32), ("mlp.up_proj", 20, 129, torch.float8_e8m0fnu),
                                          ("mlp.down_proj", 129, 20, torch.uint8)]:
    codes = (torch.randn(rows, columns) * 100).clamp(-448, 448).to(torch.float8_e4m3fn)
    grid = -(-rows // 128), -(-columns // 128)
    exponents = torch.randint(-12, 3, grid)
    scale = torch.rand(grid) if scale_type == f32 else exponents.float().exp2()
    stored[f"{L}{module}.weight"] = codes
    stored[f"{L}{module}.weight_scale_inv"] = (exponents + 127).to(torch.uint8) if scale_type == torch.uint8 else scale.to(scale_type)
    expected[f"{L}{module}.weight"] = _dequantize_fp8_weight(codes, scale, [128, 128], torch.float32)
write("fp8_native", {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
                     "modules_to_not_convert": ["lm_head"]}, stored, expected)
codes, scale, static = torch.randn(4, 6).to(torch.float8_e4m3fn), torch.tensor(0.37), torch.tensor(0.02)
write("fp8_tensor", {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None},
      {L + "mlp.up_proj.weight": codes, L + "mlp.up_proj.weight_scale_inv": scale, L + "mlp.up_proj.activation_scale": static},
      {L + "mlp.up_proj.weight": _dequantize_fp8_weight(codes, scale, None, torch.float32), L + "mlp.up_proj.activation_scale": static})

# Which group a module belongs to, as the peers find it.
modules = ["lm_head", "model.embed_tokens", "model.layers.0.mlp.gate", "model.layers.0.mlp.gate_proj", "model.layers.1.mlp.down_proj",
           "model.layers.10.mlp.experts.7.up_proj", "model.layers.1.self_attn.q_proj", "model.layers.11.self_attn.q_proj", "vision.blocks.0.fc1"]
targets = {"a": ["re:.*self_attn.*", "Embedding"], "b": ["Linear"], "c": ["model.layers.1.mlp.down_proj", "re:.*experts.\\d+.up_proj"], "d": ["re:.*up_proj"]}
ignore = ["lm_head", "re:.*mlp.gate$", "re:vision"]
of_target = {t: g for g, ts in targets.items() for t in ts}
groups = {}
for name in modules:
    module = torch.nn.Embedding(1, 1) if name.endswith("embed_tokens") else torch.nn.Linear(1, 1)
    found = [] if is_match(name, module, ignore) else match_targets(name, module, of_target)
    groups[name] = of_target[found[0]] if found else None
skips = ["lm_head", "model.layers.1", "mlp.gate", "model.layers.1\\d", "vision"]
matching = {"targets": targets, "ignore": ignore, "groups": groups, "modules_to_not_convert": skips,
            "converted": {name: should_convert_module(name, skips) for name in modules}}
(here / "matching.json").write_text(json.dumps(matching, indent=1) + "\n")

names = sorted(str(p.relative_to(here)) for p in here.rglob("*") if p.suffix in (".json", ".safetensors"))
(here / "SHA256SUMS").write_text("".join(f"{hashlib.sha256((here / n).read_bytes()).hexdigest()}  {n}\n" for n in names))
