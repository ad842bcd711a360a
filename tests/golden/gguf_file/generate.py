#!/usr/bin/env python3
"""A tiny GGUF file of the llama architecture, written by PyPI gguf's GGUFWriter: the seed of the fuzzer, and a reader's test.

The query and key rows are permuted as llama.cpp's converter does it. Run in this folder; needs numpy and gguf.
"""
import hashlib
import pathlib

import gguf
import numpy as np

here = pathlib.Path(__file__).parent
HIDDEN, HEADS, KV, FFN, VOCAB = 32, 4, 2, 64, 8


def permute(w, heads):  # LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


rng = np.random.default_rng(3)
weight = lambda *shape: rng.standard_normal(shape).astype(np.float32)
q, k = weight(HIDDEN, HIDDEN), weight(HIDDEN // HEADS * KV, HIDDEN)
writer = gguf.GGUFWriter(here / "tiny.gguf", "llama")
writer.add_name("tiny")
writer.add_context_length(64)
writer.add_embedding_length(HIDDEN)
writer.add_block_count(1)
writer.add_feed_forward_length(FFN)
writer.add_head_count(HEADS)
writer.add_head_count_kv(KV)
writer.add_rope_freq_base(10000.0)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_vocab_size(VOCAB)
writer.add_tokenizer_model("gpt2")
writer.add_token_list([b"a", b"b", "é".encode(), b"", b"e", b"f", b"g", b"\xff"])
writer.add_token_types([1] * VOCAB)
writer.add_bos_token_id(1)
writer.add_add_bos_token(False)
Q = gguf.GGMLQuantizationType
for name, data, kind in [
    ("token_embd.weight", weight(VOCAB, HIDDEN), Q.Q8_0),
    ("output_norm.weight", weight(HIDDEN), Q.F32),
    ("blk.0.attn_norm.weight", weight(HIDDEN), Q.F32),
    ("blk.0.attn_q.weight", permute(q, HEADS), Q.F32),
    ("blk.0.attn_k.weight", permute(k, KV), Q.F16),
    ("blk.0.attn_v.weight", weight(HIDDEN // HEADS * KV, HIDDEN), Q.Q4_0),
    ("blk.0.attn_output.weight", weight(HIDDEN, HIDDEN), Q.Q4_1),
    ("blk.0.ffn_norm.weight", weight(HIDDEN), Q.F32),
    ("blk.0.ffn_gate.weight", weight(FFN, HIDDEN), Q.Q5_0),
    ("blk.0.ffn_up.weight", weight(FFN, HIDDEN), Q.Q5_1),
    ("blk.0.ffn_down.weight", weight(HIDDEN, FFN), Q.BF16),
]:
    writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
q.astype("<f4").tofile(here / "q_proj.f32")
k.astype(np.float16).astype("<f4").tofile(here / "k_proj.f32")
names = ["k_proj.f32", "q_proj.f32", "tiny.gguf"]
(here / "SHA256SUMS").write_text("".join(f"{hashlib.sha256((here / n).read_bytes()).hexdigest()}  {n}\n" for n in names))
