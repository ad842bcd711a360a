"""Inverse frequencies and attention factors of every RoPE type by transformers. Usage: python3 generate.py > rope.json (needs torch and transformers 5.23)."""
import json

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

HEAD, POSITIONS = 32, 64
SHORT, LONG = [1.0 + 0.05 * i for i in range(16)], [1.2 + 0.4 * i for i in range(16)]
SHAPES = {
    "linear": dict(factor=2.5),
    "dynamic": dict(factor=3.0),
    "yarn": dict(factor=4.0, original_max_position_embeddings=32),
    "yarn ": dict(factor=8.0, original_max_position_embeddings=1000, beta_fast=20.0, beta_slow=2.0, truncate=False, attention_factor=1.25),
    "yarn  ": dict(factor=8.0, original_max_position_embeddings=32, mscale=0.7, mscale_all_dim=0.9),
    "longrope": dict(short_factor=SHORT, long_factor=LONG, factor=2.0, original_max_position_embeddings=40),
    "llama3": dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
    "proportional": dict(partial_rotary_factor=0.4, factor=1.5),
}


def main():
    cases = []
    for name, values in SHAPES.items():
        rope = dict(rope_type=name.strip(), rope_theta=5000.0, **values)
        config = LlamaConfig(hidden_size=4 * HEAD, num_attention_heads=4, max_position_embeddings=POSITIONS, rope_parameters=dict(rope))
        for length in (10, 40, 41, 64, 200):
            frequencies, factor = ROPE_INIT_FUNCTIONS[name.strip()](config, device=torch.device("cpu"), seq_len=length)
            cases.append({"rope": rope, "length": length, "frequencies": frequencies.tolist(), "attention_factor": factor})
    print(json.dumps({"head_dim": HEAD, "max_position_embeddings": POSITIONS, "cases": cases}))


main()
