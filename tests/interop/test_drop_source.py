"""prune-source: what it writes loads in transformers and computes what the parent computes with those experts shut.

The peer is transformers' own glm4_moe on the parent's weights, in which the dropped experts are made unreachable by the router's bias
alone: a smaller model that gives the same logits lost these experts and nothing else.
"""
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from program import overproof, write_labelled_texts

RECIPE = """
[teacher]
stage = tiny-teacher
seed = 1

[corpus]
source = texts
tokenizer = teacher
window-length = 64
held-out = 0.1

[index]
shard-bytes = 4096

[statistics]
stage = observe
tokens = 1024

[soft-targets]
stage = teach
tokens = 4096

[student-init]
stage = carve
experts = 7
shared = 1
top-k = 2

[student]
stage = distill
student = student-init
targets = soft-targets
steps = 12
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A student trained on three sources, made of the example texts."""
    folder = tmp_path_factory.mktemp("drop")
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    write_labelled_texts(folder / "texts", ["common", "odd", "rare"])
    (folder / "recipe.ini").write_text(RECIPE)
    overproof("run", folder / "recipe.ini", "--out", folder / "run")
    return folder / "run"


def counts_of(artifact):
    """Read by the peer's safetensors, not by ours."""
    import safetensors
    with safetensors.safe_open(artifact / "routing" / "router_counts.safetensors", "pt") as file:
        return json.loads(file.metadata()["sources"]), file.get_tensor("counts"), file.get_tensor("tokens")


def logits(model, ids):
    with torch.no_grad():
        return model(ids[None]).logits[0]


def test_counts_add_up(run):
    sources, counts, tokens = counts_of(run / "student")
    assert sources == ["common", "odd", "rare"]
    assert tokens.sum() == 12 * 4 * 64  # steps x batch x window
    assert (counts.sum(2) == 2 * tokens[:, None]).all()  # top-k 2 in every layer


@pytest.mark.parametrize("uneven", ["empty", "rank"])
def test_the_smaller_model_is_the_parent_with_those_experts_shut(run, tmp_path, uneven):
    sources, counts, _ = counts_of(run / "student")
    mass = (counts[sources.index("odd")] / counts.sum(0).clamp(min=1)).double()  # [layers, experts]
    # A threshold that layers meet differently: above the second largest mass of the layer whose second is smallest.
    ranked = mass.sort(1, descending=True).values
    threshold = float((ranked[:, 1].min() + ranked[:, 1].max()) / 2)
    over = mass > threshold
    assert over.any() and over.sum(1).min() < over.sum(1).max(), "the layers must lose different numbers for this test"
    out = run / f"without-odd-{uneven}"
    told = json.loads(overproof("prune-source", "--student", run / "student", "--drop-source", "odd", "--threshold", threshold, "--uneven", uneven,
                                "--out", out, "--json").stdout)["metrics"]

    expected = over.clone()
    if uneven == "rank":
        most = int(over.sum(1).max())
        for layer in range(len(mass)):
            for expert in sorted(range(mass.shape[1]), key=lambda e: (-mass[layer, e], e))[:most]:
                expected[layer, expert] = True
    assert {(r["layer"], r["expert"]) for r in told["removed"]} == {tuple(map(int, p)) for p in expected.nonzero()}
    places = mass.shape[1] - int(expected.sum(1).min())
    assert told["experts_after"] == places

    parent = AutoModelForCausalLM.from_pretrained(run / "student", dtype=torch.float32).eval()
    small = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    assert small.config.n_routed_experts == places
    for layer, block in enumerate(parent.model.layers):
        block.mlp.gate.e_score_correction_bias[expected[layer]] = -1e9
    ids = torch.randint(0, parent.config.vocab_size, (96,), generator=torch.Generator().manual_seed(3))
    theirs = logits(small, ids)
    assert torch.isfinite(theirs).all()
    assert (theirs - logits(parent, ids)).abs().max() <= 1e-5
    intact = AutoModelForCausalLM.from_pretrained(run / "student", dtype=torch.float32).eval()
    assert (theirs - logits(intact, ids)).abs().max() > 1e-4  # dropping them was no accident of an unused expert

    save_file({"ids": ids.to(torch.int32)}, tmp_path / "ids.safetensors")
    overproof("logits", out, "--ids", tmp_path / "ids.safetensors", "--out", tmp_path / "logits.safetensors")
    assert (load_file(tmp_path / "logits.safetensors")["logits"] - theirs).abs().max() <= 1e-4

    # The lineage continues from there: it verifies, exports and is traced.
    overproof("audit", "verify", run)
    overproof("quantize", out, run / f"int8-{uneven}")
    family = json.loads(overproof("audit", "trace", run, "--export", f"int8-{uneven}", "--json").stdout)
    assert out.name in {a["artifact"] for a in family["ancestors"]}
    assert family["complete"] and family["licenses"][0]["license"] == "CC0-1.0"
    # Counts of the experts that stayed went along.
    _, left, _ = counts_of(out)
    assert left.shape[2] == places
    kept = torch.where(expected[None].expand_as(counts), 0, counts)
    assert left.sum() == kept.sum()


def test_int8_of_a_model_with_empty_places_computes_numbers(run, tmp_path):
    ids = torch.arange(64, dtype=torch.int32)
    save_file({"ids": ids}, tmp_path / "ids.safetensors")
    overproof("logits", run / "int8-empty", "--ids", tmp_path / "ids.safetensors", "--out", tmp_path / "logits.safetensors")
    assert torch.isfinite(load_file(tmp_path / "logits.safetensors")["logits"]).all()


def test_impact_says_what_the_counts_say(run):
    sources, counts, tokens = counts_of(run / "student")
    s = sources.index("rare")
    told = json.loads(overproof("audit", "impact", run, "--artifact", "student", "--source", "rare", "--top", 100, "--json").stdout)
    assert told["source_tokens"] == int(tokens[s])
    assert len(told["rows"]) == counts.shape[1] * counts.shape[2]
    for row in told["rows"]:
        there = int(counts[s, row["layer"], row["expert"]])
        assert row["tokens"] == there
        assert row["mass"] == pytest.approx(there / max(1, int(counts[:, row["layer"], row["expert"]].sum())))
    expert = json.loads(overproof("audit", "impact", run, "--artifact", "student", "--expert", "1:3", "--json").stdout)
    assert {r["source"]: r["tokens"] for r in expert["rows"]} == {n: int(c) for n, c in zip(sources, counts[:, 1, 3]) if c > 0}


def test_a_passage_is_found_where_python_finds_it(run):
    documents = {p.name: p.read_text() for p in sorted((run.parent / "texts").glob("*.txt"))}
    name, text = sorted(documents.items())[1]
    start = text.index(" ", len(text) // 3) + 1
    passage = text[start:text.index(" ", start + 200)]
    told = json.loads(overproof("audit", "trace", run, "--span", "Unheard-of words, " + passage + " zyxwv.", "--min-words", 5, "--json").stdout)
    best = max(told["spans"], key=lambda s: s["words"])
    assert passage.strip(" .,;:\n()") in best["text"] or best["text"] in passage
    holders = {n for n, t in documents.items() if best["text"] in t}
    assert name in holders
    assert {d["name"] for d in best["documents"]} <= holders
    assert best["occurrences"] == sum(t.count(best["text"]) for t in documents.values())
    for d in best["documents"]:
        assert documents[d["name"]].encode()[d["byte"]:].startswith(best["text"].encode())
    assert json.loads(overproof("audit", "trace", run, "--span", "nobody wrote this sentence anywhere in these texts before", "--json").stdout)["spans"] == []
