#!/usr/bin/env python3
"""Calibrated W8A8 (SmoothQuant, then GPTQ) of a real model compared with llm-compressor, and int8 with torchao, in one run.

    benchmarks/quantize_calibrated.py build/release/bin/overproof TEACHER.gguf CORPUS --peer-python FILE [--tokens 4096]

CORPUS is an artifact made with the teacher's tokenizer; both programs calibrate on the same first tokens of it. FILE is a Python with
llmcompressor, torchao and gguf; a peer that it lacks is reported as missing. Measures wall time and CPU time of whole processes, with loading and
saving: overproof starts from the GGUF file, the peers from the bf16 folder that transformers made from it before.
"""
import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

from quantize_stream import run_program

CONVERT = """
import pathlib, sys, torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
gguf = pathlib.Path(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
model.hf_quantizer = None  # the weights are dequantized, but it would still refuse to save them
del model.config.quantization_config
model.save_pretrained(sys.argv[2])
PreTrainedTokenizerFast.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(sys.argv[2])
"""
LOAD = """
import pathlib, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
source, out = sys.argv[1], sys.argv[2]
model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
"""
LLM_COMPRESSOR = LOAD + """
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
try:
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
except ImportError:
    from llmcompressor.modifiers.smoothquant import SmoothQuantModifier
from safetensors import safe_open
tokens, length = int(sys.argv[4]), int(sys.argv[5])
with safe_open(sys.argv[3], "pt") as f:
    ids = f.get_tensor("train")[:tokens].to(torch.int64).view(-1, length)
data = Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist()})
oneshot(model=model, dataset=data, recipe=[SmoothQuantModifier(smoothing_strength=0.8), GPTQModifier(targets="Linear", scheme="W8A8", ignore=["lm_head"])],
        processor=AutoTokenizer.from_pretrained(source), max_seq_length=length, num_calibration_samples=len(ids), output_dir=out)
"""
TORCHAO = LOAD + """
from torchao.quantization import Int8WeightOnlyConfig, quantize_
quantize_(model, Int8WeightOnlyConfig(), filter_fn=lambda m, name: isinstance(m, torch.nn.Linear) and name != "lm_head")
pathlib.Path(out).mkdir()
torch.save(model.state_dict(), out + "/model.pt")
"""


def has(python, module):
    return python and subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("teacher", type=pathlib.Path)
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("--peer-python", type=pathlib.Path, required=True)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--length", type=int, default=256)
    args = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="overproof-calibrated-"))
    key = ["--key", work / "key.pem"]

    def measure(*commands):
        results = [run_program([str(word) for word in command]) for command in commands]
        return sum(r[0] for r in results), sum(r[1] for r in results), max(r[2] for r in results)

    def row(name, result, against=None):
        ratio = "" if against is None else f"   overproof: {result[0] / against[0]:.1f} x the speed, {result[1] / against[1]:.1f} x less CPU"
        print(f"{name:<44} {result[0]:7.1f} s  {result[1]:7.1f} CPU s  {result[2] / 2**20:6.0f} MiB{ratio}", flush=True)

    try:
        model = work / "model"
        subprocess.run([args.peer_python, "-c", CONVERT, args.teacher, model], check=True, capture_output=True)
        calibrated = measure(
            [args.program, "activations", "--model", args.teacher, "--corpus", args.corpus, "--tokens", args.tokens, "--hessians", "--out", work / "act", *key],
            [args.program, "quantize", args.teacher, work / "w8a8", "--scheme", "w8a8", "--smooth", "--gptq", "--activations", work / "act", *key])
        row("overproof w8a8, smooth and gptq", calibrated)
        plain = measure([args.program, "quantize", args.teacher, work / "int8", "--scheme", "int8", *key])
        row("overproof int8", plain)
        if has(args.peer_python, "torchao"):
            row("torchao Int8WeightOnly", measure([args.peer_python, "-c", TORCHAO, model, work / "ao"]), plain)
        else:
            print("torchao: not installed")
        if has(args.peer_python, "llmcompressor"):
            row("llm-compressor SmoothQuant, GPTQ W8A8", measure([args.peer_python, "-c", LLM_COMPRESSOR, model, work / "llmc", args.corpus / "tokens.safetensors",
                                                                  args.tokens, args.length]), calibrated)
        else:
            print("llm-compressor: not installed")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
