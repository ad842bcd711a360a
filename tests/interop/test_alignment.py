"""A teacher with another tokenizer: the default teacher and a tiny student of bytes or of SentencePiece pieces, through the command line."""
import json
import os
import pathlib
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from program import SOURCE, overproof

CACHE = pathlib.Path(sys.prefix).parent
TEACHER = pathlib.Path(os.environ.get("OVERPROOF_TEACHER", CACHE / "teacher/SmolLM2-135M-Instruct.Q4_1.gguf"))
SEED = "00c0ffee"
needs_teacher = pytest.mark.skipif(not TEACHER.exists(), reason="the default teacher is not there (tools/fetch_teacher.sh)")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alignment")
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    sizes = ["--layers", 2, "--hidden-size", 64, "--intermediate-size", 128]
    overproof("tiny-teacher", "--seed", 1, *sizes, "--out", folder / "bytes")
    overproof("tiny-teacher", "--seed", 2, *sizes, "--out", folder / "other")
    pieces(folder)
    if TEACHER.exists():
        overproof("import", "--path", TEACHER, "--out", folder / "teacher")
    for name in ("bytes", "pieces"):
        overproof("corpus", "--source", SOURCE / "examples/texts", "--tokenizer", folder / name, "--window-length", 96, "--held-out", 0.25, "--out",
                  folder / f"corpus-{name}")
    return folder


def pieces(folder):
    """A student of SentencePiece tokens: the embedding of `bytes`, cut to its vocabulary."""
    source = folder / "bytes"
    overproof("tokenizer", "train", "--input", SOURCE / "examples/texts", "--vocab-size", 400, "--out", folder / "pieces.model")
    made = folder / "pieces-source"
    made.mkdir()
    config = json.loads((source / "config.json").read_text())
    weights = load_file(source / "model.safetensors")
    generator = np.random.default_rng(4)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in weights:
            weights[name] = generator.normal(0, 0.05, (400, weights[name].shape[1])).astype(np.float32)
    config["vocab_size"] = 400
    (made / "config.json").write_text(json.dumps(config))
    save_file(weights, made / "model.safetensors")
    (made / "tokenizer.model").write_bytes((folder / "pieces.model").read_bytes())
    overproof("import", "--path", made, "--out", folder / "pieces")


def distill(run, student, out, *options, code=0):
    return overproof("distill", "--student", run / student, "--corpus", run / f"corpus-{student}", "--batch-size", 2, "--digest-every", 4, "--threads", 1, "--out",
                     run / out, *options, code=code)


def held_out(run, name, loss):
    lines = [json.loads(line) for line in (run / name / "steps.jsonl").read_text().splitlines()]
    return [line["held_out"][loss] for line in lines if "held_out" in line]


@needs_teacher
@pytest.mark.parametrize("student", ["bytes", "pieces"])
def test_a_student_learns_from_a_teacher_of_another_tokenizer(run, student):
    name = f"learned-{student}"
    refused = distill(run, student, "x", "--teacher", run / "teacher", "--steps", 2, code=7)
    assert "--align bytes" in refused.stderr
    distill(run, student, name, "--teacher", run / "teacher", "--align", "bytes", "--steps", 12, "--learning-rate", 3e-3, "--evaluate-every", 4, "--evaluate-windows", 3)
    kl, cross_entropy = held_out(run, name, "merged-kl"), held_out(run, name, "cross-entropy")
    assert len(kl) == 3 and kl[2] < kl[0] and cross_entropy[2] < cross_entropy[0], (kl, cross_entropy)  # the labels were no part of the loss
    metrics = json.dumps(json.loads(overproof("show", run / name, "--json").stdout))
    facts = json.loads(metrics[metrics.index('"teachers": [') + len('"teachers": '):metrics.index("]", metrics.index('"teachers": [')) + 1])
    assert facts[0]["aligned_share"] > 0.5 and facts[0]["common_ids"] > 100, facts
    result = json.loads(overproof("audit", "replay", run, "--artifact", name, "--seed", SEED, "--segments", 1, "--json").stdout)
    assert result["holds"], result


def test_one_tokenizer_gives_plain_forward_kl_bit_for_bit(run):
    distill(run, "bytes", "plain", "--teacher", run / "other", "--steps", 4, "--loss", "forward-kl=1")
    distill(run, "bytes", "merged", "--teacher", run / "other", "--steps", 4, "--align", "bytes")
    assert (run / "plain/model.safetensors").read_bytes() == (run / "merged/model.safetensors").read_bytes()


def test_other_tokenizers_of_small_models(run):
    """Pieces taught by bytes, with both losses, on-policy, and with documents of its own."""
    distill(run, "pieces", "small", "--teacher", run / "bytes", "--align", "bytes", "--steps", 4, "--loss", "merged-kl=0.7,universal=0.2,cross-entropy=0.1")
    distill(run, "pieces", "written", "--teacher", run / "bytes", "--align", "bytes", "--steps", 4, "--on-policy", 0.5, "--on-policy-tokens", 16)
    (source,) = {json.loads(line)["source"] for line in (run / "corpus-pieces/documents.jsonl").read_text().splitlines()}
    distill(run, "pieces", "routed", "--teachers", f"a={run / 'bytes'}", "--align", "bytes", "--steps", 4, "--route-by", "source", "--routes", f"{source}=a")
    for name in ("small", "written", "routed"):
        result = json.loads(overproof("audit", "replay", run, "--artifact", name, "--seed", SEED, "--segments", 1, "--json").stdout)
        assert result["holds"], result
        overproof("audit", "verify", run / name)


def test_what_cannot_be_right_is_refused(run):
    both = ["--teachers", f"a={run / 'bytes'},b={run / 'pieces'}", "--align", "bytes", "--steps", 2]
    assert "cannot be mixed" in distill(run, "pieces", "x", *both, "--mix", "a=1,b=1", code=7).stderr
    refused = distill(run, "pieces", "x", "--teacher", run / "bytes", "--align", "bytes", "--steps", 2, "--loss", "forward-kl=1", code=2).stderr
    assert "'forward-kl'" in refused and "of another tokenizer" in refused
    layers = distill(run, "pieces", "x", "--teacher", run / "bytes", "--align", "bytes", "--steps", 2, "--loss", "hidden-mse=1", code=2).stderr
    assert "hidden-mse" in layers
    assert not (run / "x").exists()
