#!/usr/bin/env python3
"""Builders of sparse students against each other: carve and its baselines, static pruning and shrinking, at 50, 25 and 12.5 % of the FFN, as they
are built, after `recover`, and after `distill` with two budgets of tokens.

    python3 benchmarks/student_quality.py --teacher smollm2 --work runs/student-quality [--only PATTERN] [--table FILE.md]

KL from the teacher, perplexity and agreement on the most probable token are measured by transformers, on held-out windows of the corpus that no
stage reads: each of the held-out windows is a sample, and the interval is the 2.5th to 97.5th percentile of 2,000 bootstrap means over windows
(Philox, seed 0). Everything is kept in --work: a second run makes what is missing. `--list` prints the students and what is there.

  --teacher smollm2   SmolLM2-135M-Instruct (tools/fetch_teacher.sh) with the documentation of examples/smollm2-moe.ini
  --teacher own       that of examples/own-teacher.ini (--own RUN), which must have been made before
"""

import argparse
import fnmatch
import hashlib
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

import numpy

SOURCE = pathlib.Path(__file__).resolve().parent.parent
FRACTIONS = (50, 25, 12.5)
# experts, shared and top-k by the share of the FFN that a token uses: 24 parts of 64 neurons of SmolLM2's 1536, 32 of 32 of the own teacher's 1024
LAYOUTS = {"smollm2": {50: (16, 8, 4), 25: (20, 4, 2), 12.5: (22, 2, 1)}, "own": {50: (22, 10, 6), 25: (27, 5, 3), 12.5: (29, 3, 1)}}
WIDTHS = {"smollm2": {50: 768, 25: 384, 12.5: 192}, "own": {50: 512, 25: 256, 12.5: 128}}
# 26 draws of 49,152 ids; of the 257 ids of the own teacher the 255 most probable, for draws are noise that is large next to its KL.
TARGETS = {"smollm2": (), "own": ("--mode", "top-k", "--k", 255)}
COPIES = {"smollm2": 24, "own": 24}  # of each FFN, one of them active: at most 5.5 % of the weights of the own teacher
METHODS = ("clusters", "random", "order", "cmoe", "expertweaver")
# Methods of prune-neurons; taylor is LLM-Pruner's criterion, and variance FLAP's without its bias, the default.
PRUNED = {"static": ("active",), "flap": ("flap", "--bias", "auto"), "variance": ("flap",), "taylor": ("taylor",)}
BUILDERS = (*METHODS, *PRUNED, "shrink")  # Minitron's importance


class Study:
    def __init__(self, options):
        self.o = options
        self.work = options.work / options.teacher
        self.work.mkdir(parents=True, exist_ok=True)
        self.ids = self.reference = None

    def overproof(self, name, *words):
        """Makes the artifact `name` unless it is there. Its statement binds it to inputs and options, so a changed study needs another folder."""
        out = self.work / name
        if not (out / "claims.jsonl").exists():
            print("making", name, flush=True)
            environment = os.environ | {"OVERPROOF_KEY": str(self.work / "key.pem")}
            command = [self.o.build / "bin/overproof", *words, "--out", out, "--threads", self.o.threads]
            done = subprocess.run([str(w) for w in command], capture_output=True, text=True, env=environment)
            if done.returncode != 0:
                sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
        return out

    def prepare(self):
        o = self.o
        if o.teacher == "own":
            for name in ("teacher", "corpus"):
                if not (o.own / name / "claims.jsonl").exists():
                    sys.exit(f"{o.own}/{name} is missing: overproof run examples/own-teacher.ini --out {o.own}")
            self.teacher, self.corpus = o.own / "teacher", o.own / "corpus"
        else:
            gguf = o.gguf or SOURCE / ".cache/teacher/SmolLM2-135M-Instruct.Q4_1.gguf"
            imported = self.overproof("imported", "import", "--path", gguf, "--license", "Apache-2.0")
            self.corpus = self.overproof("corpus", "corpus", "--source", o.texts or SOURCE / ".cache/debian-corpus", "--tokenizer", imported, "--cut-bytes",
                                         2000, "--source-share", 0.2, "--held-out", 0.1)
            everything = self.overproof("statistics-gguf", "observe", "--teacher", imported, "--corpus", self.corpus, "--tokens", 256, *self.f32)
            # The same weights as safetensors, which transformers reads.
            self.teacher = self.overproof("teacher", "prune-neurons", "--teacher", imported, "--statistics", everything, "--method", "active", "--keep", 1, "--dtype", "f32")
        self.statistics = self.overproof("statistics", "observe", "--teacher", self.teacher, "--corpus", self.corpus, "--tokens", o.observe, "--gradients", *self.f32)

    f32 = ("--compute", "f32")

    def treatments(self):
        return ["plain", "recovered"] + [f"distilled-{n}" for n in self.o.budgets if n > 0]

    def students(self):
        """(builder, fraction, treatment), the cheap ones of all builders first."""
        for treatment in self.treatments():
            for fraction in FRACTIONS:
                for builder in BUILDERS:
                    yield builder, fraction, treatment

    def name(self, builder, fraction, treatment):
        return f"{builder}-{fraction}-{treatment}"

    def make(self, builder, fraction, treatment):
        o, name = self.o, self.name(builder, fraction, treatment)
        given = ("--teacher", self.teacher)
        if treatment == "plain":
            if builder in PRUNED:
                return self.overproof(name, "prune-neurons", *given, "--statistics", self.statistics, "--method", *PRUNED[builder], "--keep", fraction / 100)
            if builder == "shrink":
                return self.overproof(name, "shrink", *given, "--corpus", self.corpus, "--intermediate-size", WIDTHS[o.teacher][fraction], "--tokens",
                                      o.observe, *self.f32)
            experts, shared, top_k = LAYOUTS[o.teacher][fraction]
            return self.overproof(name, "carve", *given, "--statistics", self.statistics, "--method", builder, "--experts", experts, "--shared", shared,
                                  "--top-k", top_k, "--refits", 0, "--certificate-tokens", 64)
        if treatment == "recovered":
            return self.overproof(name, "recover", "--student", self.make(builder, fraction, "plain"), *given, "--corpus", self.corpus, "--tokens",
                                  o.recover, "--ridge", 0.005, *self.f32)
        tokens = int(treatment.split("-")[1])
        start = self.make(builder, fraction, "recovered")
        targets = self.overproof(f"targets-{max(o.budgets)}", "teach", *given, "--corpus", self.corpus, "--tokens", max(o.budgets), *TARGETS[o.teacher], *self.f32)
        return self.overproof(name, "distill", "--student", start, "--targets", targets, "--corpus", self.corpus, "--steps", tokens // 256 // 4,
                              "--batch-size", 4, "--learning-rate", 2e-4, "--schedule", "linear", "--warmup", max(1, tokens // 256 // 16), "--compute", o.compute)

    def load_windows(self):
        from safetensors import safe_open
        with safe_open(self.corpus / "tokens.safetensors", "numpy") as file:
            stream, length = file.get_tensor("held_out").astype(numpy.int64), int(file.metadata()["window_length"])
        windows = (len(stream) - 1) // length
        count = min(self.o.windows, windows)
        chosen = [int((i + 0.5) * windows / count) for i in range(count)]
        return numpy.stack([stream[w * length:w * length + length + 1] for w in chosen])

    def final_states(self, folder):
        """The output head, and the hidden states after the last norm of each window, [length, hidden]."""
        import torch
        from transformers import AutoModelForCausalLM
        torch.set_num_threads(self.o.threads)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            return model.get_output_embeddings().weight.detach(), [model.model(w[None, :-1]).last_hidden_state[0] for w in torch.from_numpy(self.ids)]

    def measure(self, folder):
        """Per window: KL from the teacher, cross-entropy, agreement on the most probable token; means over its tokens."""
        import torch
        self.reference = self.reference or self.final_states(self.teacher)
        (teacher_head, teacher_states), (head, states) = self.reference, self.final_states(folder)
        kl, entropy, agreement = [], [], []
        with torch.no_grad():
            for window, before, after in zip(torch.from_numpy(self.ids), teacher_states, states):
                p, q = torch.log_softmax(before @ teacher_head.T, -1), torch.log_softmax(after @ head.T, -1)
                kl.append((p.exp() * (p - q)).sum(-1).mean().item())
                entropy.append(-q.gather(1, window[1:, None]).mean().item())
                agreement.append((p.argmax(-1) == q.argmax(-1)).float().mean().item())
        return {"kl": kl, "cross_entropy": entropy, "agreement": agreement}

    def add_cloze(self, names):
        """To the results of these students and the teacher: 1 for each question about held-out text that the model answers right by likelihood,
        else 0 (docs/evaluate.md). Students share a run of `evaluate`, and so the teacher's."""
        missing = [n for n in names if len(self.result(n).get("cloze", [])) != self.o.cloze]
        for first in range(0, len(missing), 12):
            some = missing[first:first + 12]
            slots = {f"m{i}": name for i, name in enumerate(some)}
            group = hashlib.sha256(" ".join(some).encode()).hexdigest()[:8]  # else other students would be taken for these
            out = self.overproof(f"cloze-{self.o.cloze}-{group}", "evaluate", "--teacher", self.teacher, "--corpus", self.corpus, "--models",
                                 ",".join(f"{slot}={self.work / name}" for slot, name in slots.items()), "--tokens", 256, "--prompts", 0, "--cloze", self.o.cloze,
                                 "--compute", self.o.compute)
            lines = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
            for slot, name in ({"teacher": "teacher"} | slots).items():
                right = [int(line["choice"] == line["answer"]) for line in lines if line["model"] == slot]
                self.keep(name, self.result(name) | {"cloze": right})

    def result_file(self, name):
        return self.work / f"{name}.windows-{self.o.windows}.json"

    def result(self, name):
        return json.loads(self.result_file(name).read_text())

    def keep(self, name, result):
        temporary = self.result_file(name).with_suffix(".partial")
        temporary.write_text(json.dumps(result))
        temporary.rename(self.result_file(name))

    def run(self):
        self.prepare()
        self.ids = self.load_windows()
        if not self.result_file("teacher").exists():
            self.keep("teacher", self.measure(self.teacher))
        for student in self.students():
            name = self.name(*student)
            if not fnmatch.fnmatch(name, self.o.only) or self.result_file(name).exists():
                continue
            folder = self.make(*student)
            result = self.measure(folder)
            self.keep(name, result)
            print(f"{name:<36} KL {numpy.mean(result['kl']):.4f}", flush=True)
            if self.o.table:
                self.o.table.write_text(self.table())
        if self.o.cloze:
            names = [self.name(*s) for s in self.students()]
            self.add_cloze([n for n in names if fnmatch.fnmatch(n, self.o.only) and self.result_file(n).exists()])
            if self.o.table:
                self.o.table.write_text(self.table())

    def upcycle(self):
        """The parent and the mixture of its copies, at equal active parameters, before and after training on the labels of equal tokens."""
        self.prepare()
        self.ids = self.load_windows()
        tokens, copies = self.o.upcycle, COPIES[self.o.teacher]
        given = ("--teacher", self.teacher)
        mixture = self.overproof(f"upcycled-{copies}", "upcycle", *given, "--copies", copies, "--split", 1, "--drop", 0.5, "--certificate-tokens", 64)
        order = self.overproof(f"order-{tokens}", "teach", *given, "--corpus", self.corpus, "--tokens", tokens, "--draws", 1, *self.f32)
        made = {"parent": self.teacher, "upcycled": mixture}
        for name in ("parent", "upcycled"):
            made[f"{name}, trained"] = self.overproof(f"{name}-trained-{tokens}", "distill", "--student", made[name], "--targets", order, "--corpus", self.corpus, "--loss",
                                                      "cross-entropy=1", "--train", "all", "--steps", tokens // 4096, "--batch-size", 16, "--micro-batch", 16, "--learning-rate", 1e-3,
                                                      "--schedule", "linear", "--warmup", max(1, tokens // 4096 // 10), "--balance-rate", 1e-3, "--digest-every", 0,
                                                      "--checkpoint-every", 0, *self.f32)
        shown = subprocess.run([self.o.build / "bin/overproof", "show", mixture, "--json"], capture_output=True, text=True, check=True).stdout
        shape = json.loads(shown.splitlines()[-1])["metrics"]
        print(f"{copies} copies of each FFN: {shape['active_parameters']:,} of {shape['parameters']:,} weights active, {100 * shape['active_fraction']:.1f} %; "
              f"the parent has {shape['parent_parameters']:,}. {tokens:,} tokens\n\n| model | perplexity |\n|---|---|")
        for name, folder in made.items():
            row = summary(self.measure(folder))
            p = row["perplexity"]
            print(f"| {name} | {p[0]:.3f} ({p[1]:.3f} to {p[2]:.3f}) |", flush=True)

    def table(self):
        """By fraction: KL of every treatment; how much more that is than of the default carve, window by window; the other measures."""
        results = {student: self.result(self.name(*student)) for student in self.students() if self.result_file(self.name(*student)).exists()}
        teacher = summary(self.result("teacher"))
        text = (f"{self.o.teacher}: {self.o.windows} held-out windows of 256 tokens, f32, {processor()}. Statistics and importance of {self.o.observe:,} tokens, "
                f"recovery on {self.o.recover:,}. The teacher's perplexity is {teacher['perplexity'][0]:.2f}, its cloze {percent(teacher.get('cloze'))}.\n")

        def rows(title, fraction, cell):
            nonlocal text
            made = {(b, t): cell(b, t) for b, f, t in results if f == fraction}
            treatments = [t for t in self.treatments() if any(made.get((b, t)) for b in BUILDERS)]
            if not treatments:
                return
            text += f"\n{fraction} % of the FFN, {title}:\n\n| builder | {' | '.join(t.replace('-', ', ') for t in treatments)} |\n|{'---|' * (len(treatments) + 1)}\n"
            for builder in BUILDERS:
                if any((builder, t) in made for t in treatments):
                    text += f"| `{builder}` | {' | '.join(made.get((builder, t), '') for t in treatments)} |\n"

        def more(builder, fraction, treatment):
            carved = results.get((METHODS[0], fraction, treatment))
            if builder == METHODS[0] or not carved:
                return ""
            return three(interval(numpy.array(results[builder, fraction, treatment]["kl"]) - numpy.array(carved["kl"])))

        for fraction in FRACTIONS:
            of = lambda b, t: summary(results[b, fraction, t])
            rows("KL", fraction, lambda b, t: three(of(b, t)["kl"]))
            rows(f"KL above that of `{METHODS[0]}`", fraction, lambda b, t: more(b, fraction, t))
            rows("perplexity", fraction, lambda b, t: three(of(b, t)["perplexity"]))
            rows("most probable tokens that are the teacher's", fraction, lambda b, t: percent(of(b, t)["agreement"]))
            rows("cloze", fraction, lambda b, t: percent(of(b, t).get("cloze")))
        return text


def summary(result):
    """Mean and percentile interval of each measure, over windows (cloze: questions); perplexity is exp of the mean cross-entropy."""
    found = {}
    for name, values in result.items():
        if not values:
            continue
        mean = interval(numpy.array(values))
        found["perplexity" if name == "cross_entropy" else name] = [float(numpy.exp(x)) for x in mean] if name == "cross_entropy" else mean
    return found


def interval(values):
    """Mean, and the 2.5th and 97.5th percentile of its bootstrap."""
    means = values[numpy.random.Generator(numpy.random.Philox(0)).integers(0, len(values), (2000, len(values)))].mean(1)
    return [float(values.mean()), *map(float, numpy.percentile(means, [2.5, 97.5]))]


def three(mean):
    return f"{mean[0]:.3f} ({mean[1]:.3f} to {mean[2]:.3f})" if mean else ""


def percent(mean):
    return f"{100 * mean[0]:.1f} % ({100 * mean[1]:.1f} to {100 * mean[2]:.1f})" if mean else ""


def processor():
    try:
        name = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text()).group(1)
    except (OSError, AttributeError):
        name = platform.processor() or platform.machine()
    return re.sub(r"\((R|TM)\)", "", name).split("@")[0].strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", choices=sorted(LAYOUTS), default="smollm2")
    parser.add_argument("--build", type=pathlib.Path, default=SOURCE / "build/release")
    parser.add_argument("--work", type=pathlib.Path, default=SOURCE / "runs/student-quality")
    parser.add_argument("--own", type=pathlib.Path, default=SOURCE / "runs/own-teacher", help="the run of examples/own-teacher.ini")
    parser.add_argument("--gguf", type=pathlib.Path, help="SmolLM2's file")
    parser.add_argument("--texts", type=pathlib.Path, help="texts of the corpus for smollm2")
    parser.add_argument("--observe", type=int, default=4096, help="tokens of statistics")
    parser.add_argument("--recover", type=int, default=16384, help="tokens of recovery")
    parser.add_argument("--budgets", type=lambda text: [int(n) for n in text.split(",")], default=[16384, 65536], help="tokens of distillation; 0: none")
    parser.add_argument("--compute", choices=("f32", "bf16"), default="f32", help="products of the steps of distillation, and of the cloze")
    parser.add_argument("--windows", type=int, default=32, help="held-out windows")
    parser.add_argument("--cloze", type=int, default=200, help="questions about held-out text; 0: none")
    parser.add_argument("--upcycle", type=int, default=0, metavar="TOKENS", help="instead: the teacher and a mixture of its copies that computes 5.5 %% of its weights, both trained on as many tokens")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="*", help="students to make, as a pattern: 'cmoe-50-*'")
    parser.add_argument("--table", type=pathlib.Path, help="Markdown file that is written after each student")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    study = Study(options)
    if options.list:
        for student in study.students():
            name = study.name(*student)
            print(f"{name:<36} {'measured' if study.result_file(name).exists() else 'made' if (study.work / name).exists() else '-'}")
        return
    if options.upcycle:
        return study.upcycle()
    study.run()
    print(study.table())


if __name__ == "__main__":
    main()
