#!/usr/bin/env python3
"""Teacher forward and distillation step against plain transformers: same weights, batch, targets and threads, one run.

    cmake --preset release -DOVERPROOF_BENCHMARKS=ON && cmake --build --preset release --target bench_training
    benchmarks/training.py build/release

The teacher is SmolLM2-135M-Instruct (tools/fetch_teacher.sh), the student the demo's `half`: its FFN cut into 8 shared and 16 routed
experts of width 64, of which a token uses four (glm4_moe; others by --student). 4 windows of 256 tokens, every weight trained.

    forward   all tokens through the teacher, all logits
    step      forward, loss against 32 stored ids a token, backward, clipping, AdamW: a step of `distill`
    live      the same with the teacher running alongside and the KL over the whole vocabulary: a step of `calibrate`

transformers runs in every configuration that its user could choose: experts as loops (eager) or grouped products (grouped_mm) or
what it takes by default; f32, all weights in bf16, or f32 weights with autocast. The fastest is compared. Every program runs in a process of
its own, so that peak memory is separate. Ratios are of wall time; where other programs run at the same time, take those of CPU time.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
WINDOWS, LENGTH, IDS = 4, 256, 32

MODELS = r"""
import sys, torch
from transformers import AutoModelForCausalLM, Glm4MoeConfig, Glm4MoeForCausalLM, LlamaConfig, LlamaForCausalLM
gguf, teacher_folder, student_folder, shape = sys.argv[1:]
folder, name = gguf.rsplit("/", 1)
loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
values = loaded.config.to_dict()
values.pop("quantization_config", None)
config = LlamaConfig.from_dict(values)
teacher = LlamaForCausalLM(config)
teacher.load_state_dict(loaded.state_dict())
teacher.save_pretrained(teacher_folder)
shared, experts, top_k = map(int, shape.split(","))
width = config.intermediate_size // (shared + experts)
student = Glm4MoeForCausalLM(Glm4MoeConfig(
    vocab_size=config.vocab_size, hidden_size=config.hidden_size, intermediate_size=config.intermediate_size,
    num_hidden_layers=config.num_hidden_layers, num_attention_heads=config.num_attention_heads,
    num_key_value_heads=config.num_key_value_heads, head_dim=config.head_dim, max_position_embeddings=config.max_position_embeddings,
    rms_norm_eps=config.rms_norm_eps, tie_word_embeddings=False, partial_rotary_factor=1.0,
    rope_parameters={"rope_type": "default", "rope_theta": config.rope_parameters["rope_theta"], "partial_rotary_factor": 1.0},
    attention_bias=False, first_k_dense_replace=0, n_group=1, topk_group=1, norm_topk_prob=False, routed_scaling_factor=2.0,
    n_routed_experts=experts, n_shared_experts=shared, moe_intermediate_size=width, num_experts_per_tok=top_k, use_qk_norm=False,
    num_nextn_predict_layers=0, bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id))
torch.manual_seed(1)
source, target = teacher.state_dict(), student.state_dict()
with torch.no_grad():
    for key, value in target.items():
        if key in source and source[key].shape == value.shape:
            value.copy_(source[key])
    for layer in range(config.num_hidden_layers):
        mlp = f"model.layers.{layer}.mlp."
        gate, up, down = (source[f"{mlp}{part}_proj.weight"] for part in ("gate", "up", "down"))
        cut = shared * width
        target[mlp + "shared_experts.gate_proj.weight"].copy_(gate[:cut])
        target[mlp + "shared_experts.up_proj.weight"].copy_(up[:cut])
        target[mlp + "shared_experts.down_proj.weight"].copy_(down[:, :cut])
        target[mlp + "experts.gate_up_proj"].copy_(torch.cat([gate[cut:].view(experts, width, -1), up[cut:].view(experts, width, -1)], 1))
        target[mlp + "experts.down_proj"].copy_(torch.stack([down[:, cut + e * width : cut + (e + 1) * width] for e in range(experts)]))
        target[mlp + "gate.weight"].normal_(0, 0.02)  # untrained: loads are nearly even
    target["lm_head.weight"].copy_(source["model.embed_tokens.weight"])
student.save_pretrained(student_folder)
"""

PEER = r"""
import contextlib, json, resource, sys, time, torch
from transformers import AutoModelForCausalLM
mode, threads, dtype, experts, windows, length, ids_a_row, repeat, *models = sys.argv[1:]
windows, length, ids_a_row, repeat = int(windows), int(length), int(ids_a_row), int(repeat)
torch.set_num_threads(int(threads))
torch.manual_seed(7)
kind = torch.bfloat16 if dtype == "bf16" else torch.float32
def load(path, experts="default"):  # a dense model takes no choice of experts
    options = {} if experts == "default" else {"experts_implementation": experts}
    return AutoModelForCausalLM.from_pretrained(path, dtype=kind, **options)
def products():
    return torch.autocast("cpu", torch.bfloat16) if dtype == "autocast" else contextlib.nullcontext()
def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
model = load(models[0], experts)
vocab = model.config.vocab_size
ids = torch.randint(vocab, (windows, length))
teacher = load(models[1]).eval() if mode == "live" else None
named = torch.randint(vocab, (windows, length, ids_a_row))
if mode == "forward":
    model.eval()
else:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    model.train()
def run():
    if mode == "forward":
        with torch.no_grad(), products():
            assert model(ids).logits.sum().isfinite()
        return
    with products():
        logits = model(ids).logits
    if teacher is None:
        logits = logits.float()
        loss = (torch.logsumexp(logits, -1) - logits.gather(-1, named).mean(-1)).mean()
    else:
        with torch.no_grad(), products():
            target = torch.log_softmax(teacher(ids).logits.float(), -1)
        loss = torch.nn.functional.kl_div(torch.log_softmax(logits.float(), -1).flatten(0, 1), target.flatten(0, 1), log_target=True, reduction="batchmean")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    assert loss.isfinite()
run()
best, best_cpu = 1e30, 1e30
for _ in range(repeat):
    started, used = time.time(), cpu()
    run()
    best, best_cpu = min(best, time.time() - started), min(best_cpu, cpu() - used)
print(json.dumps({"tokens_per_second": ids.numel() / best, "cpu_seconds": best_cpu, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
"""


def measure(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def operations(config, tokens, length):
    """Multiplications and additions of one forward pass: products with weights that a token uses, and causal attention."""
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    q, kv = config["num_attention_heads"] * config["head_dim"], config["num_key_value_heads"] * config["head_dim"]
    if "n_routed_experts" in config:
        width = config["moe_intermediate_size"] * (config["n_shared_experts"] + config["num_experts_per_tok"])
        router = config["n_routed_experts"] * hidden
    else:
        width, router = config["intermediate_size"], 0
    weights = layers * (hidden * (2 * q + 2 * kv) + 3 * hidden * width + router) + config["vocab_size"] * hidden
    attention = layers * 2 * q * (length + 1) / 2
    return 2.0 * tokens * (weights + attention)


def instruction_sets():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    flags = set(re.search(r"^flags\s*:\s*(.*)$", text, re.MULTILINE).group(1).split())
    name = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return (name.group(1) if name else "unknown processor"), [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="build folder with bench_training")
    parser.add_argument("--teacher", type=pathlib.Path, help="the teacher's GGUF (default: fetched by tools/fetch_teacher.sh)")
    parser.add_argument("--models", type=pathlib.Path, help="where teacher and student are kept (default: BUILD/training-models)")
    parser.add_argument("--student", default="8,16,4", help="shared experts, routed experts, experts of a token (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=3, help="repetitions of which the fastest counts")
    parser.add_argument("--mode", action="append", choices=["forward", "step", "live"], help="only these")
    parser.add_argument("--dtype", choices=["f32", "bf16"], help="only this number type")
    parser.add_argument("--ours", action="store_true", help="leave transformers out")
    options = parser.parse_args()
    bench = options.build / "bin" / "bench_training"
    folder = options.models or options.build / "training-models"
    teacher, student = folder / "teacher", folder / f"student-{options.student.replace(',', '-')}"
    if not (student / "config.json").exists():
        gguf = options.teacher or subprocess.run([ROOT / "tools" / "fetch_teacher.sh", ROOT / ".cache" / "teacher"], check=True, capture_output=True,
                                                 text=True).stdout.split()[-1]
        subprocess.run([sys.executable, "-c", MODELS, str(pathlib.Path(gguf).resolve()), str(teacher), str(student), options.student], check=True, capture_output=True)
    shapes = {path: json.loads((path / "config.json").read_text()) for path in (teacher, student)}

    name, sets = instruction_sets()
    limit = measure([bench, "limit", "--threads", options.threads])
    print(f"{name}, {options.threads} threads, {' '.join(sets)}; load {os.getloadavg()[0]:.1f}")
    print(f"large products: {limit['f32'] / 1e9:.0f} GFLOP/s a thread in f32, {limit['bf16'] / 1e9:.0f} in bf16")
    with_bf16 = limit["bf16"] > 1.3 * limit["f32"]
    if not with_bf16 and options.dtype != "bf16":
        print("bf16 is left out: this processor does not multiply it faster")
    tokens = WINDOWS * LENGTH
    size = ["--windows", WINDOWS, "--length", LENGTH, "--repeat", options.repeat, "--threads", options.threads]
    forward = operations(shapes[teacher], tokens, LENGTH)
    work = {"forward": forward, "step": 3 * operations(shapes[student], tokens, LENGTH)}
    work["live"] = work["step"] + forward
    models = {"forward": [teacher], "step": [student], "live": [student, teacher]}
    print(f"{'':<8} {'':<5} {'overproof':>28} {'transformers, best':>38}   {'speed':>6} {'by CPU':>6} {'memory':>6}   of the product limit")
    fastest = {}
    for mode in options.mode or ["forward", "step", "live"]:
        for dtype in [options.dtype] if options.dtype else ["f32", "bf16"] if with_bf16 else ["f32"]:
            ours = measure([bench, mode, *models[mode], *size, "--compute", dtype])
            used = work[mode] / ours["cpu_seconds"] / limit[dtype]
            left = f"{mode:<8} {dtype:<5} {ours['tokens_per_second']:7.0f} tokens/s {ours['cpu_seconds']:5.2f} s {ours['peak_gib']:4.1f} GiB"
            if options.ours:
                print(f"{left}   {100 * used:.0f} %", flush=True)
                continue
            kinds = [dtype] if dtype == "f32" else ["bf16", "autocast"]
            experts = ["default"] if mode == "forward" else ["default", "eager", "grouped_mm"]
            if mode == "live" and dtype in fastest:  # the loss differs, the experts do not: only what was fastest in a step
                kinds, experts = [[one] for one in fastest[dtype]]
            peers = {}
            for kind in kinds:
                for form in experts:
                    peers[(kind, form)] = measure([sys.executable, "-c", PEER, mode, options.threads, kind, form, WINDOWS, LENGTH, IDS, options.repeat, *models[mode]])
            best = max(peers, key=lambda key: peers[key]["tokens_per_second"])
            if mode == "step":
                fastest[dtype] = best
            peer = peers[best]
            label = " ".join(best) if mode != "forward" else best[0]
            print(f"{left} {label:>16} {peer['tokens_per_second']:7.0f} {peer['cpu_seconds']:5.2f} s {peer['peak_gib']:4.1f} GiB   "
                  f"{ours['tokens_per_second'] / peer['tokens_per_second']:5.2f}x {peer['cpu_seconds'] / ours['cpu_seconds']:5.2f}x "
                  f"{ours['peak_gib'] / peer['peak_gib']:5.2f}x   {100 * used:.0f} %", flush=True)
            for key, value in peers.items():
                if key != best:
                    print(f"{'':<15}{' '.join(key):<22} {value['tokens_per_second']:7.0f} tokens/s {value['cpu_seconds']:5.2f} s {value['peak_gib']:4.1f} GiB")
    if options.mode or options.ours or options.dtype:
        return
    # 8 x 256 tokens over 49,152 ids, in separate processes; the memory of inputs and gradients, which both need, is included.
    loss = ["--windows", 8, "--threads", options.threads, "--repeat", 1]
    a, b = measure([bench, "loss", *loss]), measure([bench, "loss-materialised", *loss])
    if abs(a["loss"] - b["loss"]) > 1e-4 * b["loss"]:
        sys.exit(f"the losses differ: {a['loss']} chunked, {b['loss']} materialised")
    print(f"KL loss  chunked {a['peak_gib']:.2f} GiB, materialised logits {b['peak_gib']:.2f} GiB: memory {a['peak_gib'] / b['peak_gib']:.2f} x, "
          f"speed {b['cpu_seconds'] / a['cpu_seconds']:.2f} x by CPU time")


if __name__ == "__main__":
    main()
