#!/usr/bin/env python3
"""Makes the files that each fuzz target starts from: fuzz/seeds.py FOLDER writes FOLDER/<target>/*.

What other people's programs write comes from tests/golden and from their Python packages; what only overproof writes comes from the
program that $OVERPROOF names. Needs the packages of tools/requirements-test.txt.
"""
import base64
import glob
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import sentencepiece
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from gguf import GGUFWriter
from safetensors.numpy import save
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests/golden"
sys.path.insert(0, str(ROOT / "tests/interop"))
import sealed_run  # noqa: E402

OVERPROOF = os.environ["OVERPROOF"]
TEXT = "The cat sat on the mat, and the cat sat on the hat.\nIt's 1234 words; caf\u00e9 \u4e2d\u6587 \U0001f600.\n"


def overproof(*words, key):
    done = subprocess.run([OVERPROOF, *map(str, words)], capture_output=True, text=True, env={**os.environ, "OVERPROOF_KEY": str(key)})
    if done.returncode:
        raise SystemExit(f"overproof {' '.join(map(str, words))}: {done.stderr}")
    return done.stdout


def encode(value):
    return value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()


class Seeds:
    def __init__(self, folder):
        self.folder = Path(folder)

    def put(self, target, *values):
        """Each value is a text, bytes, something for JSON, or the path of a file."""
        place = self.folder / target
        place.mkdir(parents=True, exist_ok=True)
        for value in values:
            data = value.read_bytes() if isinstance(value, Path) else encode(value)
            (place / hashlib.sha1(data).hexdigest()).write_bytes(data)

    def files(self, target, *patterns):
        found = [Path(f) for pattern in patterns for f in glob.glob(str(pattern))]
        if not found:
            raise SystemExit(f"{target}: nothing at {patterns}")
        self.put(target, *found)


def tensors(metadata, **arrays):
    return save({k.replace("__", "."): v for k, v in arrays.items()}, metadata=metadata)


def checkpoints(seeds):
    for folder in [*GOLDEN.glob("formats_8bit/*/"), *GOLDEN.glob("decoder/*/"), GOLDEN / "formats_packed_int8"]:
        if (folder / "config.json").exists() and (folder / "model.safetensors").exists():
            seeds.put("checkpoint_fuzz", (folder / "config.json").read_bytes() + b"\0" + (folder / "model.safetensors").read_bytes())
    seeds.files("model_config_fuzz", GOLDEN / "decoder/*/config.json")
    seeds.put("model_config_fuzz", {
        "model_type": "llama", "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}})
    shape = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8, "num_key_value_heads": 2, "max_position_embeddings": 64}
    moe = {"moe_intermediate_size": 8, "num_experts_per_tok": 2}
    seeds.put("model_config_fuzz", *({**shape, **more} for more in (
        {"model_type": "llama", "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "mscale": 0.7, "mscale_all_dim": 0.9}},
        {"model_type": "phi3", "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}, "sliding_window": 9},
        {"model_type": "gemma3_text", "head_dim": 8, "sliding_window": 8, "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 4.0}}},
        {"model_type": "smollm3", "no_rope_layers": [1, 0], "use_sliding_window": True, "sliding_window": 8},
        {"model_type": "qwen2_moe", "num_experts": 4, "shared_expert_intermediate_size": 8, "mlp_only_layers": [1], **moe},
        {"model_type": "deepseek_v3", "n_routed_experts": 8, "n_group": 4, "topk_group": 2, "q_lora_rank": None, "kv_lora_rank": 4, "qk_nope_head_dim": 4,
         "qk_rope_head_dim": 4, "v_head_dim": 4, "first_k_dense_replace": 1, **moe})))
    small = [f for f in glob.glob(str(GOLDEN / "*/*.safetensors")) if os.path.getsize(f) < 1 << 16]
    seeds.put("safetensors_fuzz", *map(Path, small))
    seeds.put("inspect_fuzz", *map(Path, small))
    seeds.files("inspect_fuzz", GOLDEN / "gguf_file/*.gguf")
    seeds.files("gguf_fuzz", GOLDEN / "gguf_file/*.gguf")
    seeds.put("shards_fuzz", {"metadata": {"total_size": 16}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}},
              {"weight_map": {"a": "a.safetensors"}}, {"weight_map": {"a": "b.safetensors"}}, {"weight_map": {"a": "../a.safetensors"}})


def syntax(seeds):
    """JSON and regular expressions."""
    chat = json.dumps({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi {% raw %}"}, {"role": "assistant", "content": "Hello"}],
                       "tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": 1.5}}}]})
    chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    blocks = "{% for m in messages %}{% if m.role == 'assistant' %}{%- generation %}{{ m.content | trim }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}{{ tools | tojson(indent=2) }}"
    for record in [chat, json.dumps({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}),
                   json.dumps({"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]]}), json.dumps({"prompt": "a", "completion": "b"})]:
        seeds.put("chat_template_fuzz", chatml + "\0" + record, blocks + "\0" + record)
    for bad in ["{% set ns = namespace(x='a') %}{% for i in range(9999999) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "{{ " + "(" * 3000 + ")" * 3000 + " }}",
                "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "{{ 'a' * 99999999999 }}", "{{ range(9999999999) | list }}", "{{ messages[9].x.y }}", "{% generation %}"]:
        seeds.put("chat_template_fuzz", bad + "\0" + chat)
    seeds.put("json_fuzz", "{}", {"leaves": [{}, {}, [], None, True, -1.5, "\u00e9"]}, '{"a":1,"a":2}', "[" * 300, "[1e999]", "18446744073709551615")
    for pattern in [r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", r"(?=a*b)a", "(a+)+$", r"\C", r"(?<=ab)c|x*$", r"[^\r\n]+\K"]:
        seeds.put("regex_fuzz", pattern.encode() + b"\0" + TEXT.encode(), pattern.encode() + b"\0aaaa", pattern.encode() + b"\0abc \n")


def tokenizers(seeds, scratch):
    """Byte-level BPE and SentencePiece models of a few words, by those whose formats they are."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator([TEXT] * 4, trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>", "<|im_start|>"],
                                                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    text = bpe.to_str()
    config = {"bos_token": "<|endoftext|>", "eos_token": {"content": "<|im_start|>"}, "chat_template": "{{ messages }}", "add_bos_token": True}
    seeds.put("tokenizer_json_fuzz", text)
    for pattern in [r"\C", r"(?=a*b)a", r"(?:(\C)|[^a]+)"]:  # half a character, quadratic time
        split = json.loads(text)
        split["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "Split", "pattern": {"Regex": "[^a]+"}, "behavior": "Isolated", "invert": False}]}
        seeds.put("tokenizer_json_fuzz", split)
    seeds.put("gguf_vocabulary_fuzz", b"t" + text.encode(), b"c" + encode(config))
    definition = json.loads(text)["model"]
    for pre in ["gpt-2", "smollm", "llama-bpe", "qwen2"]:
        file = scratch / f"{pre}.gguf"
        writer = GGUFWriter(file, "llama")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(sorted(definition["vocab"], key=definition["vocab"].get))
        writer.add_token_types([3, 4] + [1] * (len(definition["vocab"]) - 2))
        writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in definition["merges"]])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        seeds.put("gguf_tokenizer_fuzz", file)
    (scratch / "text").write_text(TEXT * 4)
    for kind, rule in [("bpe", "nmt_nfkc"), ("bpe", "identity"), ("unigram", "identity")]:
        sentencepiece.SentencePieceTrainer.train(input=str(scratch / "text"), model_prefix=str(scratch / kind), model_type=kind, vocab_size=300,
                                                 normalization_rule_name=rule, byte_fallback=True, hard_vocab_limit=False, minloglevel=2)
        model = (scratch / f"{kind}.model").read_bytes()
        seeds.put("spm_model_fuzz", model)
        seeds.put("gguf_vocabulary_fuzz", b"m" + model)
    (scratch / "tokenizer").mkdir()
    (scratch / "tokenizer/tokenizer.json").write_text(text)


def corpus(seeds, scratch):
    """A corpus of a few documents, its index and its proofs."""
    source, run, key = scratch / "source", scratch / "run", scratch / "keys/key.pem"
    source.mkdir()
    names = [f"{i}.txt" for i in range(12)]
    for i, name in enumerate(names):
        (source / name).write_text(f"document {i}: {TEXT}" + "word " * i)
    (source / "documents.jsonl").write_text("".join(json.dumps({"name": n, "license": "CC0-1.0", "source": "notes"}) + "\n" for n in names))
    overproof("corpus", "--source", source, "--tokenizer", scratch / "tokenizer", "--window-length", 8, "--out", run / "corpus", key=key)
    made = run / "corpus"
    index = (made / "index.safetensors").read_bytes()
    seeds.put("commitment_fuzz", struct.pack("<II", len(names), len(index)) + index + (made / "tiles.safetensors").read_bytes())
    seeds.put("claims_fuzz", made / "claims.jsonl")
    seeds.put("bundle_fuzz", made / "model.sig")
    overproof("index", "--corpus", made, "--out", run / "index", key=key)
    seeds.put("span_index_fuzz", *[f for f in (run / "index").glob("*.safetensors") if f.name != "documents.safetensors"])
    overproof("audit", "checkpoint", run, "--name", "example.com/corpora", "--publish", scratch / "public", key=key)
    for number, document in enumerate([source / names[0], scratch / "text"]):
        proof = scratch / f"proof{number}.json"
        overproof("audit", "prove", run, "--document", document, "--out", proof, key=key)
        seeds.put("corpus_proof_fuzz", proof)
    notes = [f for f in [*scratch.glob("keys/*.note.pub"), *(scratch / "public").rglob("checkpoint*")] if f.is_file()]
    seeds.put("corpus_proof_fuzz", made / "commitment.json", *notes, "tile/0/x001/234.p/5", "tile/entries/000", "example.com/corpora\n5\n" + base64.b64encode(b"r" * 32).decode() + "\n")
    seeds.put("policy_fuzz", overproof("audit", "policy", "--show-policy", key=key), "GPL-2.0-or-later WITH Classpath-exception-2.0", "GPL-1+ or Artistic, and MIT")
    # Ten and five tokens, as the target's stream has.
    record = {"source": "notes", "license": "CC0-1.0", "license_rule": "given", "bytes": 9}
    seeds.put("documents_fuzz", "".join(json.dumps({**record, "digest": f"{i:064x}", "name": f"{i}", "split": split, "first_token": first, "tokens": tokens}) + "\n"
                                        for i, (split, first, tokens) in enumerate([("train", 0, 4), ("train", 4, 6), ("held_out", 0, 5)])))


def signed(seeds, scratch):
    sealed = sealed_run.Run(scratch / "sealed")
    for artifact in ["teacher", "corpus", "student", "evaluation"]:
        claims = sealed.path / artifact / "claims.jsonl"
        seeds.put("claims_fuzz", claims, base64.b64decode(json.loads(claims.read_text())["payload"]))
        seeds.put("bundle_fuzz", sealed.path / artifact / "model.sig")
    key = sealed_run.new_key()
    pem = sealed_run.public_pem(key).decode()
    for kind, result in [("replay", {"status": "equal", "segments": [1, 2]}), ("compare", {"tests": [{"name": "weights", "p_value": "1e-9"}]})]:
        record = {"_type": sealed_run.STATEMENT, "subject": [{"name": "student", "digest": {"sha256": "a" * 64}}],
                  "predicateType": f"urn:overproof:audit:{kind}:v1", "predicate": {"result": result, "auditor": pem}}
        seeds.put("audit_record_fuzz", record, sealed_run.envelope(record, key, hashlib.sha256(pem.encode()).hexdigest()))
    cache = {"format_version": 1, "chunk_bytes": 64 << 20, "files": [
        {"name": "a", "bytes": 5, "sha256": "0" * 64, "states": "", "stamp": dict.fromkeys(["device", "inode", "modified_s", "modified_ns", "changed_s", "changed_ns"], 1)}]}
    new = sealed_run.new_key()
    old_hint, new_hint = (hashlib.sha256(sealed_run.public_pem(k)).hexdigest() for k in (key, new))
    rotation = {"_type": sealed_run.STATEMENT, "subject": [{"name": "public key", "digest": {"sha256": new_hint}}], "predicateType": "urn:overproof:key-rotation:v1",
                "predicate": {"from": old_hint, "to": sealed_run.public_pem(new).decode(), "accepted": base64.b64encode(b"signature").decode()}}
    seeds.put("digest_cache_fuzz", cache, sealed_run.envelope(rotation, key, old_hint))
    how = serialization.Encoding.PEM, serialization.PrivateFormat
    for private in [ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1()),
                    ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 1024)]:
        seeds.put("keys_fuzz", sealed_run.public_pem(private), private.private_bytes(how[0], how[1].PKCS8, serialization.NoEncryption()))
    seeds.put("keys_fuzz", private.private_bytes(how[0], how[1].TraditionalOpenSSL, serialization.NoEncryption()), b"s" * 32)
    seeds.put("keys_fuzz", key.private_bytes(how[0], how[1].PKCS8, serialization.BestAvailableEncryption(b"secret")))


def statistics(seeds):
    """Files of numbers that overproof writes for itself, as their headers describe them."""
    f4, i8, u1 = "<f4", "<i8", "u1"
    group = {"g__amax": numpy.ones(2, f4), "g__range": numpy.array([-1, 1], f4), "g__samples": numpy.ones((3, 2), "<f2"),
             "g__square": numpy.ones(2, f4), "g__hessian": numpy.eye(2, dtype=f4), "g__tokens": numpy.array([5, 1], i8)}
    seeds.put("activations_fuzz", tensors({"model_root": "a" * 64, "corpus_root": "b" * 64, "tokens": "5", "format_version": "1",
                                           "groups": json.dumps({"g.weight": "g", "h.weight": "g"})}, **group))
    seeds.put("router_counts_fuzz", tensors({"sources": '["notes", "pages"]', "format_version": "1"},
                                            counts=numpy.ones((2, 3, 4), i8), tokens=numpy.array([4, 4], i8)))
    targets = {"count": "2", "temperature": "1", "vocab_size": "64", "window_length": "2", "batch_windows": "1", "seed": "1", "order_key": "a" * 64,
               "corpus_root": "b" * 64, "teacher_root": "c" * 64, "tokenizer_probe": "d" * 64, "format_version": "1"}
    sample = b"".join((id << 6 | draws).to_bytes(3, "little") for id, draws in [(3, 2), (1, 1), (9, 1)])
    top = b"".join(id.to_bytes(3, "little") + numpy.float16(p).tobytes() for id, p in [(3, -0.5), (1, -1), (9, -2)])
    for kind, entries, size in [("sample", sample, 3), ("top-k", top, 5)]:
        seeds.put("soft_targets_fuzz", tensors({**targets, "kind": kind}, row_lengths=numpy.array([1, 2], u1), entries=numpy.frombuffer(entries, u1),
                                               block_offsets=numpy.array([0, 3 * size], i8)))
        seeds.put("soft_targets_fuzz", tensors({**targets, "kind": kind, "format_version": "2", "first_block": "1", "all_blocks": "3", "compute": "f32"},
                                               row_lengths=numpy.array([0, 3], u1), entries=numpy.frombuffer(entries, u1),
                                               block_offsets=numpy.array([0, 3 * size], i8)))
    shape = {"format_version": "1", "teacher_root": "a" * 64, "corpus_root": "b" * 64, "tokens": "4", "window_length": "2", "layers": "1",
             "hidden_size": "3", "intermediate_size": "2"}
    layer = {"tokens": numpy.arange(4, dtype="<i4"), "layers.0.ffn_input": numpy.ones((4, 3), "<f2"), "layers.0.importance": numpy.ones(2, f4),
             "layers.0.mean": numpy.ones(2, f4), "layers.0.variance": numpy.ones(2, f4), "layers.0.taylor": numpy.ones(2, f4)}
    seeds.put("ffn_statistics_fuzz", tensors(shape, **layer))
    seeds.put("expert_statistics_fuzz", tensors(
        {"format_version": "1", "model_root": "a" * 64, "corpus_root": "b" * 64, "tokens": "4", "layers": "1", "experts": "2", "hidden_size": "3", "top_k": "1"},
        **{"layers.0.mean_output": numpy.ones((2, 3), f4), "layers.0.tokens": numpy.array([3, 1], "<i4"), "layers.0.reap": numpy.ones(2, f4),
           "layers.0.largest": numpy.ones(2, f4)}))
    seeds.put("evaluation_fuzz", {"tokens": 5, "windows": 1, "models": [{"name": "int8", "perplexity": 20.5, "kl_p99": 3, "bytes": 7, "loops": 0.5, "texts": [{"name": "other", "tokens": 3, "kl_mean": 1}]}, {"name": "teacher", "kl_mean": None}]})
    seeds.put("sampled_tokens_fuzz", '{"before": [1], "tokens": [2, 3]}\n{"before": [], "tokens": []}\n')
    file = {"bytes": 3, "name": "a.bin", "sha256": "0" * 64}
    key = hashlib.sha256(b"key").hexdigest()
    seeds.put("resume_fuzz", b"\0" + encode({"files": [file], "format_version": 1, "progress": {"batches": 2}, "stage_key": key}))
    seeds.put("resume_fuzz", b"\1" + bytes([1, 1, 2]) + bytes([1, 0]) + b"ab" + bytes([2]) + b"abcd")
    seeds.put("resume_fuzz", b"\3[1,2]\n[]\n[999]\n")
    # 24 bytes for counts and range, then amax and square, samples and Hessian: 24 + 2*3*4 + 2*3*2 and 24 + 2*2*4 + 4*2*2 + 2*2*4
    groups = [[["a", "b"], 3, 2, False], [["c"], 2, 4, True]]
    seeds.put("resume_fuzz", b"\2" + encode({"layers": 1, "experts": [0, 0, 0, 0], "groups": groups}))
    ids = {"prompt_token_ids": [1, 2, 3, 4], "prompt_logprobs": [None] + [{str(i): {"logprob": -1.5}, "7": {"logprob": -0.5}} for i in (2, 3, 4)]}
    texts = {"logprobs": {"tokens": list("bcde"), "top_logprobs": [None] + [{t: -2.5, "\u00e9": -0.5, "": -9} for t in "cde"]}}
    usage = {"usage": {"prompt_tokens": 4, "completion_tokens": 1}, "model": "m"}
    triples = [[-1.5, 2, None], [-0.5, 7, "x"]]
    meta = {"prompt_tokens": 4, "input_token_logprobs": [[None, 1, None]] + [[-1, i, None] for i in (2, 3, 4)], "input_top_logprobs": [None] + 3 * [triples]}
    llama = {"tokens_evaluated": 4, "completion_probabilities": [{"top_logprobs": [{"id": 3, "logprob": -0.5, "token": "d"}]}]}
    for first, answer in [(0, {"choices": [ids], **usage}), (1, {"meta_info": meta}), (2, {"choices": [texts], **usage}), (3, llama), (4, {"choices": [texts], **usage})]:
        for kind in (first, first + 5):
            seeds.put("teacher_answer_fuzz", bytes([kind]) + encode(answer))
    seeds.put("teacher_answer_fuzz", b"\x0d" + encode({"model": "m", "choices": [{"message": {"role": "assistant", "content": "[[A]]"}}], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}))
    seeds.put("arena_fuzz", {"judge": "verifier", "prompts": 2, "draws": 10, "seed": -1, "scale": 400, "mean": 1000, "with_prior": True, "draws_with_prior": 3, "not_judged": 0,
                             "models": [{"name": "a", "rating": 1012.5, "low": 1, "high": 2e3, "wins": 1, "losses": 0, "ties": 1}], "pairs": [{"a": "a", "b": "b", "wins_a": 1, "wins_b": 0, "ties": 1}]})
    seeds.put("teacher_answer_fuzz", b"\x0a" + encode({"error": {"message": "no"}}))
    request, row = b"r" * 32, struct.pack("<IIH", 5, 0, 2) + bytes([1, 0]) + b"\1\0\0\0\xb8"
    records = b"\1" + request + struct.pack("<II", 4, 5) + b"\2" + request + struct.pack("<I", len(row)) + row + b"\3" + b"s" * 32 + struct.pack("<I", 0)
    text = struct.pack("<IB", 7, 1) + "é".encode()
    records += b"\4" + b"t" * 32 + struct.pack("<I", len(text)) + text
    seeds.put("teacher_answer_fuzz", b"\x0b" + records, b"\x0c" + records)
    message = {"role": "assistant", "content": "Yes."}
    seeds.put("teacher_answer_fuzz", b"\x0d" + encode({"choices": [{"message": message, "finish_reason": "stop"}], **usage}))
    weights = hashlib.sha256(b"w").digest()
    facts = b'{"batch_root":"plain","digest_every":2,"ranks":1,"terms":["forward-kl","cross-entropy"]}'
    for version, first in [(1, b"overproof step chain v1" + weights), (2, b"overproof step chain v2" + weights + facts)]:
        records, chain = b"", hashlib.sha256(first).digest()
        for step in range(4):
            state = b"w" * 64 if step % 2 else b"\0" * 64  # digests are taken every two steps
            if version == 1:
                record = struct.pack("<4Q6d", step, step * 2, 16, 16 * (step + 1), 1e-3, 3.0, 2.0, 4.0, 1.0, 1.0) + b"b" * 32 + state + b"\0" * 48
            else:
                numbers = struct.pack("<5Q19d", step, step * 2, 2, 16, 16 * (step + 1), 16.0, 1e-3, 3.0, 1.0, 1.0, 2.0, 4.0, *[0.0] * 12)
                record = numbers + b"b" * 32 + state
            chain = hashlib.sha256(chain + record).digest()
            records += record + chain
        kind = bytes([version - 1])
        seeds.put("step_records_fuzz", kind + records, kind + records[:len(records) // 4])
    seeds.put("step_log_fuzz", '{"step":0,"loss":2.5,"kl":2.5,"ce":0.0,"balance":1.0}\n' * 2, '{"loss":2.5,"terms":{"forward-kl":2.5},"weight":16.0}\n')
    plan = json.dumps([[name, "F32", [2, 3], "none", [[name, "F32", [2, 3]]]] for name in ["a.weight", "b.weight"]], separators=(",", ":"))
    seeds.put("journal_fuzz", {"layout": hashlib.sha256(plan.encode()).hexdigest(), "items": 1, "bytes": 24, "errors": [[1.5, 0.25]],
                               "inputs": [{"file": 0, "bytes": 24, "sha256": "1" * 64}]})


def stages(seeds):
    """Checkpoints of a layer with what calibration or pruning would be given of them."""
    def model(shapes):
        layer = {f"model.layers.0.{name}": shape for name, shape in shapes.items()}
        return {f"{name}.weight": numpy.linspace(-1, 1, int(numpy.prod(shape)), dtype="<f4").reshape(shape)
                for name, shape in {"model.embed_tokens": (2, 4), "model.norm": (4,), **layer}.items()}

    def put(target, option, config, weights, more):
        config, weights = encode(config), save(weights)
        seeds.put(target, struct.pack("<BHH", option, len(config), len(weights)) + config + weights + more)

    attention = {"input_layernorm": (4,), "self_attn.q_proj": (4, 4), "self_attn.k_proj": (2, 4), "self_attn.v_proj": (2, 4), "self_attn.o_proj": (4, 4),
                 "post_attention_layernorm": (4,)}
    dense = {**attention, "mlp.gate_proj": (64, 4), "mlp.up_proj": (64, 4), "mlp.down_proj": (4, 64)}
    llama = {"model_type": "llama", "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 4, "intermediate_size": 64,
             "vocab_size": 2, "tie_word_embeddings": True}
    groups, arrays = {}, {}
    for name, (_, columns) in [(n, s) for n, s in dense.items() if len(s) == 2]:
        group = f"model.layers.0.{name}"
        groups[f"{group}.weight"] = group
        arrays |= {f"{group}.amax": numpy.ones(columns, "<f4"), f"{group}.range": numpy.array([-1, 1], "<f4"), f"{group}.samples": numpy.ones((2, columns), "<f2"),
                   f"{group}.hessian": numpy.eye(columns, dtype="<f4"), f"{group}.tokens": numpy.array([500, 0], "<i8")}
    activations = save(arrays, metadata={"model_root": "0" * 64, "corpus_root": "b" * 64, "tokens": "500", "format_version": "1", "groups": json.dumps(groups)})
    for option in range(32):
        put("quantize_fuzz", option, llama, model(dense), b"" if option < 12 else activations)
    neuron = numpy.arange(64, dtype="<f4")
    for option in [0, 16, 16 + 16]:  # stage 0 in bits 2 and 3, the method above
        put("prune_fuzz", option, llama, model(dense), tensors(
            {"format_version": "1", "teacher_root": "0" * 64, "corpus_root": "0" * 64, "tokens": "2", "window_length": "2", "layers": "1",
             "hidden_size": "4", "intermediate_size": "64"},
            **{"tokens": numpy.zeros(2, "<i4"), "layers.0.ffn_input": numpy.zeros((2, 4), "<f2"), "layers.0.importance": neuron, "layers.0.mean": neuron,
               "layers.0.variance": neuron, "layers.0.taylor": neuron}))
    for method in range(3):
        for sparsity in range(2):
            put("prune_fuzz", 8 + 16 * method + sparsity, llama, model(dense), activations)
    sparse = {**attention, "mlp.gate": (4, 4)}
    for expert in range(4):
        sparse |= {f"mlp.experts.{expert}.{name}": shape for name, shape in [("gate_proj", (2, 4)), ("up_proj", (2, 4)), ("down_proj", (4, 2))]}
    glm = {**llama, "model_type": "glm4_moe", "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 0, "moe_intermediate_size": 2}
    counts = tensors({"sources": '["notes", "pages"]', "format_version": "1"}, counts=numpy.array([[[8, 1, 1, 0]], [[1, 4, 4, 1]]], "<i8"), tokens=numpy.array([5, 5], "<i8"))
    ones = numpy.ones(4, "<f4")
    experts = tensors({"format_version": "1", "model_root": "0" * 64, "corpus_root": "0" * 64, "tokens": "4", "layers": "1", "experts": "4", "hidden_size": "4", "top_k": "2"},
                      **{"layers.0.mean_output": numpy.eye(4, dtype="<f4"), "layers.0.tokens": numpy.array([3, 1, 0, 4], "<i4"), "layers.0.reap": ones,
                         "layers.0.largest": ones})
    for method in range(3):
        put("prune_fuzz", 12 + 16 * method, glm, {**model(sparse), "model.layers.0.mlp.gate.e_score_correction_bias": numpy.zeros(4, "<f4")}, experts)
    for option in [1, 3]:
        put("prune_fuzz", option, glm, {**model(sparse), "model.layers.0.mlp.gate.e_score_correction_bias": numpy.zeros(4, "<f4")}, counts)


def texts(seeds):
    seeds.files("dep5_fuzz", "/usr/share/doc/[b-d]*/copyright")
    seeds.files("recipe_fuzz", ROOT / "examples/*.ini")
    seeds.put("recipe_fuzz", "[teacher]\na %invalid_line% b\n", {"scheme": "int8"}, {"window-length": 8, "held-out": 0.5}, {"student": {"root": "0" * 64, "seconds": 1.5, "summary": ["made"]}})
    seeds.put("json_fuzz", {"a": [1, 2.5, None, True, {"b": "\u00e9"}]}, "{}", "[{},{},{}]", '{"a":1,"a":2}', "[" * 300, '"\\ud800"', "1e999", '{"a": x}')
    seeds.put("regex_fuzz", "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}\0" + TEXT, "\\s+(?!\\S)|\\s+\0" + TEXT, "(?=a*b)a\0aaaaaaaa", "\\C\0\u00e9")
    for row in map(json.loads, (GOLDEN / "math_answers/answers.jsonl").read_text().splitlines()):
        seeds.put("math_answer_fuzz", row["expected"] + "\0" + row["given"])
    seeds.put("math_answer_fuzz", "7\0So the answer is \\boxed{7}.", "B\0The answer is (B).", "{{1,{2,3}},{4,5}}\0{{{3,2},1},{5,4}}")
    seeds.put("tasks_fuzz", {"prompt": "1 + 1?", "answer": 2}, {"messages": [{"role": "user", "content": "x"}], "answer": "1", "examples": [], "verifier": {"type": "math", "extract": "boxed", "tolerance": 0.1}},
              {"prompt": "x", "verifier": {"type": "regex", "pattern": "a+b"}, "name": "n"}, {"prompt": "x", "answer": "1", "verifier": "command"},
              {"prompt": "x", "verifier": {"type": "program", "tests": "assert f(1)"}}, {"prompt": "x", "verifier": {"type": "program", "command": ["sh", "x"], "file": "x", "cases": [{"stdin": "1", "stdout": "2"}]}})
    seeds.put("choice_questions_fuzz", *(GOLDEN / "choice_scores/questions.jsonl").read_text().splitlines(),
              {"context": "a \u2003", "choices": ["x", "y"], "answer": "y", "task": "t", "name": "n", "delimiter": ""})
    seeds.put("cloze_fuzz", "\x06" + TEXT, "\x04One two three four river. Here are more words, and some boats end there! Now what\tis\xa0this?")
    seeds.put("report_fuzz", b"\0<b>&amp;\"'`|*_[x](y)\xff", b"\5$x$ <!-- ]]> --> \xe2\x80\xae")
    seeds.put("watermark_fuzz", json.dumps({"format": "overproof-watermark-1", "secret": "a" * 64, "green_fraction": 0.25, "context": 2}) + "\0" + '{"before": [1], "tokens": [2, 3]}\n')
    for number, name, text in [("0", "config.json", '{"model_type": "llama"}'), ("1", "documents.jsonl", '{"name": "notes/one", "license": "MIT", "source": "notes"}\n'),
                               ("1", "licenses.json", '{"licenses": {"MIT": {"bytes": 8, "documents": 1, "tokens": 2}}, "sources": {}, "license_rules": {}}'),
                               ("5", "steps.jsonl", '{"step": 0, "loss": 2.5, "balance": 1, "kl": 1}\n'), ("6", "config.json", '{"model_type": "glm4_moe"}'),
                               ("8", "a", ""), ("9", "evaluation.json", '{"tokens": 5, "models": [{"name": "int8", "perplexity": 20.5, "kl_p99": 3}]}')]:
        config = {"license": "Apache-2.0", "name": "x", "seed": 1, "steps": 2, "batch-size": 1, "window-length": 4, "order-beacon": "", "temperature": 1.5}
        metrics = {"loss": 0.5, "steps": 2, "windows": 4, "tokens": 16, "ffn_activation": 0.25, "kl_before": 0.5, "kl_after": 0.25, "tuning_kept": False,
                   "step_chain": "0" * 64, "expert_load": [[0.5, 0.5]], "policy": {"acknowledged": ["MIT"]}, "parameters": 10}
        for question in range(56):
            seeds.put("run_fuzz", "\0".join([number + chr(56 + question), json.dumps(config), json.dumps(metrics), name, text]))


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    seeds = Seeds(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        checkpoints(seeds)
        syntax(seeds)
        tokenizers(seeds, scratch)
        corpus(seeds, scratch)
        signed(seeds, scratch)
        statistics(seeds)
        stages(seeds)
        texts(seeds)
    targets = {file.stem for file in (ROOT / "fuzz").glob("*_fuzz.cc")}
    made = {folder.name for folder in seeds.folder.iterdir()}
    if missing := targets - made:
        raise SystemExit(f"without seeds: {', '.join(sorted(missing))}")


main()
