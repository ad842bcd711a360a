#!/usr/bin/env python3
"""Teacher forward and distillation step against plain transformers: same weights, batch, dtype and threads, one run.

    benchmarks/training.py BUILD TEACHER STUDENT

TEACHER and STUDENT are folders that both programs load (for example runs/smollm2-moe/static-init as a narrower dense teacher; transformers
reads a GGUF teacher itself). Every program runs in a process of its own, so that peak memory is separate.
"""
import json
import pathlib
import subprocess
import sys

PEER = r"""
import json, resource, sys, time, torch
from transformers import AutoModelForCausalLM
mode, threads, student, teacher = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(threads)
torch.manual_seed(7)
def load(path):
    if path.endswith(".gguf"):
        folder, name = path.rsplit("/", 1)
        return AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
model = load(student if mode == "step" else teacher)
ids = torch.randint(model.config.vocab_size, (4, 256))
best = 0.0
if mode == "forward":
    model.eval()
    for _ in range(4):
        start = time.time()
        with torch.no_grad():
            assert model(ids).logits.sum().isfinite()
        best = max(best, ids.numel() / (time.time() - start))
else:
    with torch.no_grad():
        target = torch.log_softmax(load(teacher).eval()(ids).logits, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    model.train()
    for _ in range(4):
        start = time.time()
        loss = torch.nn.functional.kl_div(torch.log_softmax(model(ids).logits, -1).flatten(0, 1), target.flatten(0, 1), log_target=True, reduction="batchmean")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        best = max(best, ids.numel() / (time.time() - start))
print(json.dumps({"tokens_per_second": best, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
"""


def measure(command):
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main():
    build, teacher, student = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    import os
    threads = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    bench = str(build / "bin" / "bench_training")
    for mode, ours in [("forward", [bench, "forward", teacher]), ("step", [bench, "step", student, teacher])]:
        a = measure([*ours, "--threads", str(threads)])
        b = measure([sys.executable, "-c", PEER, mode, str(threads), student, teacher])
        print(f"{mode:<8} overproof {a['tokens_per_second']:7.1f} tokens/s {a['peak_gib']:5.2f} GiB   "
              f"transformers {b['tokens_per_second']:7.1f} tokens/s {b['peak_gib']:5.2f} GiB   "
              f"speed {a['tokens_per_second'] / b['tokens_per_second']:.2f} x, memory {a['peak_gib'] / b['peak_gib']:.2f} x")
    # 8 x 256 tokens over 49,152 ids, in separate processes; the memory of inputs and gradients, which both need, is included.
    loss = ["--windows", "8", "--threads", str(threads)]
    a, b = measure([bench, "loss", *loss]), measure([bench, "loss-materialised", *loss])
    if abs(a["loss"] - b["loss"]) > 1e-4 * b["loss"]:
        sys.exit(f"the losses differ: {a['loss']} chunked, {b['loss']} materialised")
    print(f"KL loss  chunked {a['peak_gib']:5.2f} GiB, materialised logits {b['peak_gib']:5.2f} GiB: memory {a['peak_gib'] / b['peak_gib']:.2f} x, "
          f"speed {a['tokens_per_second'] / b['tokens_per_second']:.2f} x")


if __name__ == "__main__":
    main()
