"""llama.cpp from Python, as far as the tests need it: the C functions inside the wheel of xllamacpp, through ctypes.

The structures are those of include/llama.h in the release that tools/requirements-test.txt pins; the fields' defaults are
checked when a model is opened, so that another layout is noticed and not misread.
"""
import ctypes
import importlib.util
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from functools import cache
from pathlib import Path

import numpy as np


class ModelParams(Structure):
    _fields_ = [("devices", c_void_p), ("tensor_buft_overrides", c_void_p), ("n_gpu_layers", c_int32), ("split_mode", c_int32),
                ("load_mode", c_int32), ("lazy_mode", c_int32), ("main_gpu", c_int32), ("tensor_split", c_void_p),
                ("progress_callback", c_void_p), ("progress_callback_user_data", c_void_p), ("kv_overrides", c_void_p),
                ("vocab_only", c_bool), ("check_tensors", c_bool), ("use_extra_bufts", c_bool), ("no_host", c_bool), ("no_alloc", c_bool),
                ("load_mtp", c_bool)]


class ContextParams(Structure):
    _fields_ = [("n_ctx", c_uint32), ("n_batch", c_uint32), ("n_ubatch", c_uint32), ("n_seq_max", c_uint32), ("n_rs_seq", c_uint32),
                ("n_outputs_max", c_uint32), ("n_outputs_max_per_seq", c_uint32), ("n_threads", c_int32), ("n_threads_batch", c_int32),
                ("ctx_type", c_int32), ("rope_scaling_type", c_int32), ("pooling_type", c_int32), ("attention_type", c_int32),
                ("flash_attn_type", c_int32), ("rope_freq_base", c_float), ("rope_freq_scale", c_float), ("yarn_ext_factor", c_float),
                ("yarn_attn_factor", c_float), ("yarn_beta_fast", c_float), ("yarn_beta_slow", c_float), ("yarn_orig_ctx", c_uint32),
                ("defrag_thold", c_float), ("cb_eval", c_void_p), ("cb_eval_user_data", c_void_p), ("type_k", c_int32), ("type_v", c_int32),
                ("moe_cache_size", c_size_t), ("abort_callback", c_void_p), ("abort_callback_data", c_void_p), ("embeddings", c_bool),
                ("offload_kqv", c_bool), ("no_perf", c_bool), ("op_offload", c_bool), ("swa_full", c_bool), ("kv_unified", c_bool),
                ("samplers", c_void_p), ("n_samplers", c_size_t), ("ctx_other", c_void_p)]


class Batch(Structure):
    _fields_ = [("n_tokens", c_int32), ("token", POINTER(c_int32)), ("embd", POINTER(c_float)), ("pos", POINTER(c_int32)),
                ("n_seq_id", POINTER(c_int32)), ("seq_id", POINTER(POINTER(c_int32))), ("logits", POINTER(c_int8))]


LOG = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
messages = []  # what llama.cpp has logged


@LOG
def keep_message(level, text, data):
    messages.append(text.decode(errors="replace"))


@cache
def library():
    folder = Path(importlib.util.find_spec("xllamacpp").origin).parent
    lib = ctypes.CDLL(str(next(folder.glob("xllamacpp*.so"))))
    for name, result, arguments in [
            ("llama_backend_init", None, []), ("llama_log_set", None, [LOG, c_void_p]),
            ("llama_model_default_params", ModelParams, []), ("llama_context_default_params", ContextParams, []),
            ("llama_model_load_from_file", c_void_p, [c_char_p, ModelParams]), ("llama_model_free", None, [c_void_p]),
            ("llama_model_get_vocab", c_void_p, [c_void_p]), ("llama_vocab_n_tokens", c_int32, [c_void_p]),
            ("llama_vocab_bos", c_int32, [c_void_p]), ("llama_vocab_eos", c_int32, [c_void_p]),
            ("llama_init_from_model", c_void_p, [c_void_p, ContextParams]), ("llama_free", None, [c_void_p]),
            ("llama_decode", c_int32, [c_void_p, Batch]), ("llama_get_logits_ith", POINTER(c_float), [c_void_p, c_int32]),
            ("llama_tokenize", c_int32, [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool])]:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.llama_log_set(keep_message, None)
    lib.llama_backend_init()
    model, context = lib.llama_model_default_params(), lib.llama_context_default_params()
    assert (model.use_extra_bufts, model.vocab_only, model.check_tensors) == (True, False, False), "another llama_model_params"
    assert (context.n_ctx, context.n_batch, context.n_seq_max, context.flash_attn_type) == (512, 2048, 1, -1), "another llama_context_params"
    later = (context.rope_scaling_type, context.yarn_ext_factor, context.type_k, context.n_samplers)
    assert later == (-1, -1.0, 1, 0), "another llama_context_params"
    return lib


class Model:
    """A .gguf opened by llama.cpp on the CPU; RuntimeError with its log when it refuses."""

    def __init__(self, path, vocab_only=False):
        self.lib = library()
        parameters = self.lib.llama_model_default_params()
        parameters.n_gpu_layers, parameters.vocab_only, parameters.check_tensors = 0, vocab_only, True
        parameters.use_extra_bufts = False  # no repacking: the plain kernels
        messages.clear()
        self.model = self.lib.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise RuntimeError("".join(messages[-12:]))
        self.vocab = self.lib.llama_model_get_vocab(self.model)

    def close(self):
        self.lib.llama_model_free(self.model)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def tokenize(self, text, add_special=False, parse_special=False):
        raw = text.encode()
        room = len(raw) + 16
        ids = (c_int32 * room)()
        n = self.lib.llama_tokenize(self.vocab, raw, len(raw), ids, room, add_special, parse_special)
        assert 0 <= n <= room
        return ids[:n]

    def logits(self, ids):
        """[len(ids), vocabulary] f32, of every position; the key-value cache in f32."""
        n = len(ids)
        parameters = self.lib.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = max(n, 64), n, n
        parameters.n_threads = parameters.n_threads_batch = 1
        parameters.type_k = parameters.type_v = 0  # GGML_TYPE_F32
        parameters.flash_attn_type = 0
        context = self.lib.llama_init_from_model(self.model, parameters)
        if not context:
            raise RuntimeError("".join(messages[-12:]))
        sequence = (c_int32 * 1)(0)
        batch = Batch(n, (c_int32 * n)(*ids), None, (c_int32 * n)(*range(n)), (c_int32 * n)(*[1] * n),
                      (POINTER(c_int32) * n)(*[ctypes.cast(sequence, POINTER(c_int32))] * n), (c_int8 * n)(*[1] * n))
        assert self.lib.llama_decode(context, batch) == 0
        width = self.lib.llama_vocab_n_tokens(self.vocab)
        rows = [np.ctypeslib.as_array(self.lib.llama_get_logits_ith(context, i), (width,)).copy() for i in range(n)]
        self.lib.llama_free(context)
        return np.stack(rows)
