"""Every loss, averages, evaluations and early stop through the command line, replayed; event files by a reader of TensorBoard's format."""
import json
import os
import struct

import pytest

from program import SOURCE, overproof

SEED = "00c0ffee"
PLAIN = "forward-kl=0.5,cross-entropy=0.1,router-z=0.001,balance=0.01"
ALL = ("forward-kl=0.3,cross-entropy=0.1,reverse-kl=0.1,jensen-shannon:0.2=0.1,total-variation=0.1,skewed-kl:0.2=0.1,skewed-reverse-kl=0.1,"
       "entropy-gated:0.7=0.1,top-k-kl:16=0.1,router-z=0.001,balance=0.01,hidden-mse=0.1,hidden-cosine=0.1,ffn-mse=0.1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill")
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    overproof("run", SOURCE / "examples/kill-test.ini", "--out", folder / "run", "--set", "soft-targets.tokens=1280", "--set", "student.steps=2",
              "--only", "student")
    return folder / "run"


def distill(run, name, *options, teacher=True):
    words = ["distill", "--student", run / "student-init", "--targets", run / "soft-targets", "--corpus", run / "corpus", "--batch-size", 2,
             "--digest-every", 2, "--out", run / name, *options]
    return overproof(*words, *(["--teacher", run / "teacher"] if teacher else []))


def lines_of(run, name):
    return [json.loads(line) for line in (run / name / "steps.jsonl").read_text().splitlines()]


def replayed(run, name):
    done = overproof("audit", "replay", run, "--artifact", name, "--seed", SEED, "--segments", 1, "--json")
    return json.loads(done.stdout)


def crc32c(data):
    """Bit by bit, from the polynomial of RFC 3720."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def fields(data):
    """Fields of a protocol buffer: (number, value)."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte, at = data[at], at + 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        length = {1: 8, 5: 4}.get(key & 7) or varint()
        yield key >> 3, data[at:at + length]
        at += length


def events(folder):
    (path,) = folder.glob("events.out.tfevents.*")
    data = path.read_bytes()
    at = 0
    while at < len(data):
        head, length = data[at:at + 8], struct.unpack_from("<Q", data, at)[0]
        payload = data[at + 12:at + 12 + length]
        for part, stored in ((head, data[at + 8:at + 12]), (payload, data[at + 12 + length:at + 16 + length])):
            crc = crc32c(part)
            assert struct.unpack("<I", stored)[0] == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
        yield list(fields(payload))
        at += 16 + length


def test_every_loss_trains_with_averages_and_evaluations_and_is_replayed(run):
    distill(run, "all", "--teacher-share", 1, "--loss", ALL, "--steps", 6, "--ema", 0.9, "--schedule", "wsd", "--evaluate-every", 3)
    lines = lines_of(run, "all")
    assert len(lines) == 6 and len(lines[0]["terms"]) == 14
    assert [set(line.get("held_out", {})) for line in lines] == [set(), set(), {"forward-kl", "cross-entropy"}] * 2
    assert all(value >= 0 for line in lines for value in line["terms"].values())
    assert all(0 < value < 20 for line in lines for value in line.get("held_out", {}).values())  # six steps of 14 losses promise no more
    result = replayed(run, "all")
    assert result["holds"], result
    assert overproof("audit", "verify", run, code=None).returncode == 0


def test_what_the_student_wrote_is_compared_where_it_is_made_again(run):
    distill(run, "on-policy", "--teacher-share", 1, "--loss", "reverse-kl=1", "--steps", 6, "--on-policy", 0.5, "--on-policy-tokens", 20)
    result = replayed(run, "on-policy")
    assert result["holds"], result
    assert any("the student wrote the batches of 3 of 6 steps" in note for note in result["notes"])
    assert overproof("audit", "verify", run, code=None).returncode == 0


def write_tasks(file, pattern):
    tasks = [{"name": str(i), "prompt": f"Letters {i}: ", "verifier": {"type": "regex", "pattern": pattern}} for i in range(4)]
    file.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return file


def test_rewards_of_tasks_train_and_are_replayed(run):
    tasks = write_tasks(run.parent / "tasks.jsonl", "[a-z]")
    options = ["--teacher-share", 1, "--loss", "reward=1,sampled-reverse-kl=0.1", "--steps", 8, "--on-policy", 1, "--on-policy-tokens", 6, "--on-policy-group", 2]
    distill(run, "rewarded", *options, "--tasks", tasks)
    lines = lines_of(run, "rewarded")
    assert all(line["reward"] in (0, 0.5, 1) and set(line["terms"]) == {"reward", "sampled-reverse-kl"} for line in lines)
    assert any(line["reward"] == 0.5 and line["terms"]["reward"] != 0 for line in lines)
    replay = ["audit", "replay", run, "--artifact", "rewarded", "--seed", SEED, "--segments", 1, "--json"]
    done = overproof(*replay, code=2)
    assert "--file tasks=PATH" in done.stderr
    result = json.loads(overproof(*replay, "--file", f"tasks={tasks}").stdout)
    assert result["holds"], result
    assert any("the student wrote the batches of 8 of 8 steps" in note for note in result["notes"])
    other = write_tasks(run.parent / "other.jsonl", "[0-9]")
    assert "another file 'tasks'" in overproof(*replay, "--file", f"tasks={other}", code=None).stderr
    assert "was trained without a file 'samples'" in overproof(*replay, "--file", f"samples={other}", code=2).stderr
    assert overproof("audit", "verify", run, code=None).returncode == 0


def test_draws_and_rewards_that_are_not_there_are_refused(run):
    tasks = write_tasks(run.parent / "tasks.jsonl", "[a-z]")
    written = ["--teacher-share", 1, "--on-policy", 1]
    for loss, options, cause in (("unlikelihood", ["--teacher-share", 1], "give --on-policy"), ("reward", written, "needs --tasks"), ("reward", ["--teacher-share", 1], "give --on-policy"),
                                 ("sampled-reverse-kl", [*written, "--on-policy-temperature", 0.5], "--on-policy-temperature 1"),
                                 ("sampled-reverse-kl", ["--teacher-share", 1, "--on-policy", 0.5], "trains nothing in steps of windows"),
                                 ("forward-kl", ["--teacher-share", 1, "--tasks", tasks], "give --on-policy as well"),
                                 ("reward", [*written, "--tasks", tasks, "--on-policy-group", 3], "whole groups of 3"),
                                 ("sampled-reverse-kl", ["--teacher-share", 0.5, "--on-policy", 1], "--teacher-share 1")):
        done = overproof("distill", "--student", run / "student-init", "--targets", run / "soft-targets", "--corpus", run / "corpus", "--teacher", run / "teacher",
                         "--batch-size", 4, "--out", run / "refused", "--loss", f"{loss}=1", *options, code=2)
        assert cause in done.stderr, done.stderr


def test_event_files_have_the_numbers_of_the_log(run):
    distill(run, "logged", "--loss", PLAIN, "--steps", 4, "--evaluate-every", 2, teacher=False)
    records = list(events(run / "training-logs" / "logged"))
    assert (3, b"brain.Event:2") in records[0]
    assert (run / "training-logs/logged/steps.jsonl").read_bytes() == (run / "logged/steps.jsonl").read_bytes()
    lines = lines_of(run, "logged")
    assert len(records) == 1 + len(lines)
    for record, line in zip(records[1:], lines):
        event = dict(record)
        assert event.get(2, 0) == line["step"] and struct.unpack("<d", event[1])[0] > 1.6e9
        values = {}
        for _, value in fields(event[5]):
            parts = dict(fields(value))
            values[parts[1].decode()] = struct.unpack("<f", parts[2])[0]
        expected = {k: v for k, v in line.items() if isinstance(v, (int, float)) and k != "step"}
        expected |= {f"terms/{k}": v for k, v in line["terms"].items()} | {f"held_out/{k}": v for k, v in line.get("held_out", {}).items()}
        assert values == pytest.approx(expected, rel=1e-6)


def test_a_training_that_stopped_early_is_replayed_with_a_note(run):
    done = distill(run, "stopped", "--teacher-share", 0, "--steps", 20, "--learning-rate", 0.3, "--clip", 0, "--schedule", "constant", "--evaluate-every", 1,
                   "--patience", 2)
    assert "stopped early" in done.stdout
    assert len(lines_of(run, "stopped")) < 20
    result = replayed(run, "stopped")
    assert result["holds"], result
    assert "by its held-out loss" in json.dumps(result)


def test_a_loss_without_what_it_needs_is_refused(run):
    for loss, options, cause in (("hidden-mse", [], "give --teacher"), ("skewed-kl", [], "sampled"), ("top-k-kl:1.5", [], "whole number"),
                                 ("hidden-cosine", ["--teacher", run / "teacher"], "--teacher-share 1")):
        done = overproof("distill", "--student", run / "student-init", "--targets", run / "soft-targets", "--corpus", run / "corpus", "--out",
                         run / "refused", "--loss", f"{loss}=1", *options, code=2)
        assert loss.split(":")[0] in done.stderr and cause in done.stderr


@pytest.mark.parametrize("student, modules", [("teacher", 7), ("student-init", 4)])
def test_adapters_load_in_peft_and_are_replayed(run, student, modules):
    """A dense student with adapters on every projection and a mixture of experts with those of its attention."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM
    name = f"adapted-{student}"
    words = ["distill", "--student", run / student, "--targets", run / "soft-targets", "--corpus", run / "corpus", "--batch-size", 2, "--digest-every", 2,
             "--learning-rate", 0.02, "--steps", 4, "--lora-rank", 3, "--lora-alpha", 9, "--dtype", "f32", "--ema", 0.5]
    done = json.loads(overproof(*words, "--out", run / name, "--json").stdout)
    config = json.loads((run / name / "adapter/adapter_config.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(run / student, dtype=torch.float32)
    layers = base.config.num_hidden_layers
    assert len(config["target_modules"]) == modules * layers and config["r"] == 3 and config["lora_alpha"] == 9
    ids = torch.randint(0, base.config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        untouched = base(ids).logits
        adapted = peft.PeftModel.from_pretrained(base, run / name / "adapter").eval()
        trained = sum(p.numel() for key, p in adapted.named_parameters() if "lora_" in key)
        logits = adapted(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(run / name, dtype=torch.float32)(ids).logits
    assert done["metrics"]["adapter_parameters"] == trained == done["metrics"]["trained_parameters"]
    assert (logits - untouched).abs().max() > 0.01
    assert torch.allclose(logits, merged, atol=2e-4, rtol=2e-4)
    result = replayed(run, name)
    assert result["holds"], result
    for found in (overproof("audit", "verify", run, code=None),):
        assert found.returncode == 0, found.stdout
    # Adapters that are not those of the training are found.
    file = run / name / "adapter/adapter_model.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert overproof("audit", "verify", run, code=4).returncode == 4
    file.write_bytes(good)
    # Of nothing that can have adapters nothing is trained.
    if student != "teacher":
        refused = overproof(*words, "--lora-targets", "gate,down", "--out", run / "refused", code=2)
        assert "lora-targets" in refused.stderr
