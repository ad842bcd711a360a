"""Scores questions.jsonl by lm-evaluation-harness and transformers, for tests/interop/test_evaluate.py. None of overproof's code is used.

Usage: python3 generate.py TEACHER.gguf > scores.json      the default teacher (tools/fetch_teacher.sh); packages: README.md
"""
import json
import pathlib
import sys

import lm_eval
import torch
import transformers
from lm_eval.models.huggingface import HFLM

HERE = pathlib.Path(__file__).parent
TEACHER = pathlib.Path(sys.argv[1])
transformers.utils.logging.disable_progress_bar()
torch.manual_seed(0)

model = transformers.AutoModelForCausalLM.from_pretrained(TEACHER.parent, gguf_file=TEACHER.name, dtype=torch.float32).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(TEACHER.parent, gguf_file=TEACHER.name)
# A GGUF of this model has no flag for it, and transformers' class of this file adds none.
print("begin token added:", tokenizer.encode("x")[0] == tokenizer.bos_token_id, file=sys.stderr)


def task(name, questions, delimiter):
    """A multiple-choice task of lm-evaluation-harness, as a YAML file of it would describe it."""
    file = HERE / f".{name}.jsonl"
    file.write_text("".join(json.dumps({k: q[k] for k in ("context", "choices", "answer", "name")}, ensure_ascii=False) + "\n" for q in questions))
    return {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}, "test_split": "test",
            "output_type": "multiple_choice", "doc_to_text": "{{context}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}",
            "target_delimiter": delimiter, "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm", "acc_bytes")]}


def run(max_length, questions):
    """Samples by name, and the metrics of each task. lm-evaluation-harness has one delimiter a task."""
    by_delimiter = {}
    for q in questions:
        by_delimiter.setdefault(q.get("delimiter", " "), []).append(q)
    samples, metrics = {}, {}
    for number, (delimiter, some) in enumerate(by_delimiter.items()):
        name = f"questions_{number}"
        result = lm_eval.simple_evaluate(model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=max_length),
                                         tasks=[task(name, some, delimiter)], log_samples=True, bootstrap_iters=100, verbosity="ERROR")
        for sample in result["samples"][name]:
            samples[sample["doc"]["name"]] = {"log_likelihoods": [float(r[0]) for r in sample["filtered_resps"]],
                                              "greedy": [bool(r[1]) for r in sample["filtered_resps"]],
                                              **{m: sample[m] for m in ("acc", "acc_norm", "acc_bytes")}}
        metrics[delimiter] = {k.partition(",")[0]: v for k, v in result["results"][name].items() if isinstance(v, (int, float))}
        (HERE / f".{name}.jsonl").unlink()
    return samples, metrics


questions = [json.loads(line) for line in (HERE / "questions.jsonl").read_text().splitlines()]
samples, metrics = run(None, questions)
# Six ids at a time: all contexts are cut at their beginning.
short, _ = run(8, [q for q in questions if q["context"]])
print(json.dumps({"lm_eval": lm_eval.__version__, "transformers": transformers.__version__, "torch": torch.__version__, "questions": samples,
                  "by_delimiter": metrics, "at_most_8": short}, indent=0, ensure_ascii=False))
