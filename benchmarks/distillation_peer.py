"""One training by TRL's GKDTrainer or DistillKit's DistillationTrainer, for distillation.py, which gives its settings as JSON and reads JSON from the last line.

Both train with the teacher alongside on forward KL over the whole vocabulary: of TRL's trainers GKDTrainer with lmbda 0 and beta 0 is the one that takes given
texts. Both are transformers' Trainer, so what is set here is what a user can set: number type, experts' implementation, fused AdamW, no gradient
checkpointing, sequences in the given order. The loop ends after `steps` steps and `seconds` seconds, whichever is later.
"""
import json
import os
import resource
import sys
import time

settings = json.loads(sys.argv[1])
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}

import datasets  # noqa: E402
import numpy  # noqa: E402
import pyarrow  # noqa: E402
import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402

torch.set_num_threads(settings["threads"])
torch.manual_seed(1)
datasets.disable_progress_bars()
KIND = torch.bfloat16 if settings["dtype"] == "bf16" else torch.float32
BATCH, STEPS, SECONDS = settings["batch"], settings["steps"], settings["seconds"]


def load(path, has_experts):
    options = {"experts_implementation": settings["experts"]} if has_experts and settings["experts"] != "default" else {}
    return AutoModelForCausalLM.from_pretrained(path, dtype=KIND, **options)


class Clock(TrainerCallback):
    def __init__(self):
        self.ends, self.losses, self.saved = [], [], {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))

    def save(self, model, name):
        if settings["save"] and name not in self.saved:
            began = time.time()
            path = f"{settings['save']}-{name}"
            model.save_pretrained(path)
            self.saved[name] = {"path": path, "step": len(self.ends)}
            return time.time() - began
        return 0.0

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.ends.append(time.time() - self.pause)
        if len(self.ends) == STEPS:
            self.pause += self.save(model, "tokens")
        if self.ends[-1] - self.ends[0] >= SECONDS:
            self.pause += self.save(model, "time")
        if len(self.ends) >= STEPS and self.ends[-1] - self.ends[0] >= SECONDS:
            control.should_training_stop = True

    pause = 0.0


windows = numpy.load(settings["windows"])  # [windows, length + 1], in the order of training
most = settings["most_steps"] * BATCH
rows = [windows[i % len(windows)].tolist() for i in range(most)]
common = dict(output_dir=settings["work"], per_device_train_batch_size=BATCH, gradient_accumulation_steps=1, max_steps=settings["most_steps"],
              learning_rate=settings["rate"], lr_scheduler_type="constant", weight_decay=0.0, adam_beta1=0.9, adam_beta2=0.95, adam_epsilon=1e-8,
              max_grad_norm=1.0, optim="adamw_torch_fused", bf16=settings["dtype"] == "autocast", use_cpu=True, gradient_checkpointing=False,
              logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False, seed=1)
clock = Clock()
student, teacher = load(settings["student"], True), load(settings["teacher"], False)
tokenizer = AutoTokenizer.from_pretrained(settings["tokenizer"])


def dataset_of(rows):
    # With a fingerprint of its own: computing one fails with some pairs of datasets and pyarrow.
    return datasets.Dataset(datasets.table.InMemoryTable(pyarrow.table({"input_ids": rows})), fingerprint="windows")


def in_order(self, *args, **kwargs):
    return torch.utils.data.SequentialSampler(self.train_dataset)


if settings["trainer"] == "trl":
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    def collate(examples):
        ids = torch.tensor([e["input_ids"] for e in examples])
        labels = ids.clone()
        labels[:, 0] = -100  # predicted by nothing
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    GKDTrainer._get_train_sampler = in_order
    trainer = GKDTrainer(model=student, teacher_model=teacher, args=GKDConfig(**common, lmbda=0.0, beta=0.0, temperature=1.0, max_length=windows.shape[1]),
                         train_dataset=dataset_of(rows), data_collator=collate, processing_class=tokenizer, callbacks=[clock])
else:
    sys.path.insert(0, settings["distillkit"])
    import trl
    from distillkit.configuration import DistillationRunConfig
    from distillkit.signals import OnlineSignalSource
    from distillkit.trainer import DistillationTrainer

    def collate(examples):
        return {"input_ids": torch.tensor([e["input_ids"] for e in examples])}

    config = DistillationRunConfig.model_validate({
        "model": settings["student"], "output_path": settings["work"], "sequence_length": windows.shape[1] - 1, "use_flash_attention": False,
        "dataset": {"train_dataset": {"disk_path": "-"}, "prepacked": True}, "teacher": {"kind": "hf", "path": settings["teacher"]},
        "loss_functions": [{"function": "kl", "weight": 1.0, "temperature": 1.0, "missing_probability_handling": "zero"}]})
    DistillationTrainer._get_train_sampler = in_order
    vocabulary = student.get_input_embeddings().weight.shape[0]
    trainer = DistillationTrainer(model=student, config=config, signal_source=OnlineSignalSource(teacher, vocab_size=vocabulary), true_vocab_size=vocabulary,
                                  train_dataset=dataset_of([row[:-1] for row in rows]), data_collator=collate, processing_class=tokenizer,
                                  args=trl.SFTConfig(**common, max_length=windows.shape[1], dataset_kwargs={"skip_prepare_dataset": True}), callbacks=[clock])
trainer.train()
ends = clock.ends
print()
print(json.dumps({"seconds_a_step": (ends[min(STEPS, len(ends)) - 1] - ends[0]) / (min(STEPS, len(ends)) - 1), "steps": len(ends), "first_loss": clock.losses[0],
                  "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "saved": clock.saved}))
