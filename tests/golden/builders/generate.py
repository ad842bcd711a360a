"""What published builders of students make, written from their papers in numpy, scipy and transformers; nothing of overproof takes part.

  carve/    one FFN layer and tokens. CMoE (arXiv 2502.04416): markers of the K largest |h| of a token, activation rates, shared neurons, balanced
            k-means by Euclidean distance from the neurons with the highest rates with scipy's linear assignment, representative neurons.
            ExpertWeaver (arXiv 2602.15521): mean |silu(gate)| over windows, coefficient of variation (eq. 3), its share above tau (eq. 4), shared
            neurons, mean gate vectors (eq. 11) of the clusters that balanced k-means finds from given centres.
  shrink/   a tiny Llama by transformers: block influence (ShortGPT, arXiv 2403.03853, eq. 1), importance of neurons, heads and dimensions (Minitron,
            arXiv 2407.14679: mean over tokens, L2 norm over sequences), and the logits of the model that is cut by them.

Run with transformers 5.23, torch 2.15, scipy: python generate.py
"""

import hashlib
import pathlib
import shutil

import numpy
import torch
import transformers
from safetensors.numpy import save_file
from scipy.optimize import linear_sum_assignment

HERE = pathlib.Path(__file__).resolve().parent
FF, HIDDEN, TOKENS, WINDOW, EXPERTS, SHARED, ACTIVE, TAU = 24, 12, 96, 8, 5, 1, 4, 0.6
WIDTH = FF // (EXPERTS + SHARED)


def silu(x):
    return x / (1 + numpy.exp(-x))


def balanced_kmeans(rows, centres, iterations=50):
    """Equal clusters of least total distance to the centres, and their means, in turns."""
    size = len(rows) // len(centres)
    last = None
    for _ in range(iterations):
        distance = numpy.linalg.norm(rows[:, None] - centres[None], axis=2)
        _, slot = linear_sum_assignment(numpy.repeat(distance, size, axis=1))
        cluster = slot // size
        if last is not None and (cluster == last).all():
            break
        last = cluster
        centres = numpy.stack([rows[cluster == c].mean(0) for c in range(len(centres))])
    return last, centres


def carve(seed):
    """Whether k-means of both methods finds the groups that the data has; else another seed is wanted, since k-means finds local optima."""
    rng = numpy.random.default_rng(seed)
    # Tokens of five kinds, in windows of one kind; neurons that answer to one kind each, and four that answer to all.
    kinds = numpy.repeat(rng.permutation(numpy.resize(numpy.arange(EXPERTS), TOKENS // WINDOW)), WINDOW)
    directions = numpy.linalg.qr(rng.normal(size=(HIDDEN, HIDDEN)))[0]
    x = 2.5 * directions[kinds] + 1.5 * directions[EXPERTS] + 0.25 * rng.normal(size=(TOKENS, HIDDEN))
    answers = rng.permutation(numpy.r_[numpy.full(WIDTH, EXPERTS), numpy.repeat(numpy.arange(EXPERTS), WIDTH)])
    strength = numpy.where(answers == EXPERTS, 2.0, 1.0)[:, None]
    gate = strength * directions[answers] + 0.05 * rng.normal(size=(FF, HIDDEN))
    up = strength * directions[answers] + 0.05 * rng.normal(size=(FF, HIDDEN))
    down = rng.normal(size=(HIDDEN, FF))
    x, gate, up, down = (a.astype(numpy.float32) for a in (x, gate, up, down))

    h = silu(x @ gate.T) * (x @ up.T)
    largest = numpy.argsort(-numpy.abs(h), axis=1, kind="stable")[:, :ACTIVE]
    markers = numpy.zeros((TOKENS, FF))
    numpy.put_along_axis(markers, largest, 1, axis=1)
    rates = markers.mean(0)
    ranked = numpy.argsort(-rates, kind="stable")
    shared, routed = numpy.sort(ranked[:SHARED * WIDTH]), numpy.sort(ranked[SHARED * WIDTH:])
    cluster, centres = balanced_kmeans(markers.T[routed], markers.T[ranked[SHARED * WIDTH:SHARED * WIDTH + EXPERTS]])
    representative = []
    for c in range(EXPERTS):
        members = routed[cluster == c]
        representative.append(members[numpy.argmin(numpy.linalg.norm(markers.T[members] - centres[c], axis=1))])
    groups = numpy.stack([routed[cluster == c] for c in range(EXPERTS)])
    if not all(len(set(answers[g])) == 1 for g in groups):
        return False

    profiles = numpy.abs(silu(x @ gate.T)).reshape(TOKENS // WINDOW, WINDOW, FF).mean(1)
    variation = profiles.std(0) / profiles.mean(0)
    by_mean = numpy.argsort(-profiles.mean(0), kind="stable")
    weaver_routed = numpy.sort(by_mean[SHARED * WIDTH:])
    if not all((answers[weaver_routed] == c).any() for c in range(EXPERTS)):
        return False
    first = profiles.T[[weaver_routed[answers[weaver_routed] == c][0] for c in range(EXPERTS)]]
    weaver_cluster, _ = balanced_kmeans(profiles.T[weaver_routed], first)
    weaver = numpy.stack([weaver_routed[weaver_cluster == c] for c in range(EXPERTS)])
    if not all(len(set(answers[g])) == 1 for g in weaver):
        return False
    save_file({"gate_up": numpy.concatenate([gate, up]), "down": down, "input": x, "cmoe_rates": rates.astype(numpy.float32),
               "cmoe_shared": shared, "cmoe_groups": groups, "cmoe_representatives": numpy.array(representative),
               "weaver_profiles": profiles.astype(numpy.float32), "weaver_variation": variation.astype(numpy.float32),
               "weaver_specialised": numpy.array([(variation > TAU).mean()]), "weaver_shared": numpy.sort(by_mean[:SHARED * WIDTH]),
               "weaver_groups": weaver, "weaver_gates": numpy.stack([gate[g].mean(0) for g in weaver])}, HERE / "carve.safetensors")
    print("carve: seed", seed, "rates", rates.round(2), "variation above tau", (variation > TAU).mean())
    return True


def shrink():
    torch.manual_seed(7)
    shape = dict(vocab_size=40, hidden_size=16, intermediate_size=20, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
                 max_position_embeddings=64, initializer_range=0.4, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
                 rope_parameters=dict(rope_type="default", rope_theta=10000.0))
    folder = HERE / "shrink"
    shutil.rmtree(folder, ignore_errors=True)
    cls = transformers.LlamaForCausalLM
    model = cls(cls.config_class(**shape)).float().eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" in name:
                tensor.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    ids = torch.randint(shape["vocab_size"], (4, 12))
    seen = {}

    def keep(name):
        return lambda module, given, out: seen.__setitem__(name, (given[0].detach(), (out[0] if isinstance(out, tuple) else out).detach()))

    for number, layer in enumerate(model.model.layers):
        for name, module in (("block", layer), ("o", layer.self_attn.o_proj), ("down", layer.mlp.down_proj), ("norm1", layer.input_layernorm),
                             ("norm2", layer.post_attention_layernorm)):
            module.register_forward_hook(keep((number, name)))
    model.model.norm.register_forward_hook(keep("final"))
    with torch.no_grad():
        model(ids)
    over = lambda values: values.abs().double().mean(1).square().sum(0).sqrt()  # [sequences, tokens, n] -> [n]
    influence, neurons, groups = [], [], []
    dimensions = over(seen["final"][1])
    for number in range(3):
        x, y = seen[number, "block"]
        influence.append(1 - torch.nn.functional.cosine_similarity(x.double(), y.double(), dim=-1).mean().item())
        neurons.append(over(seen[number, "down"][0]))
        of_heads = over(seen[number, "o"][0].reshape(4, 12, 4, 4).norm(dim=-1))
        groups.append(of_heads.reshape(2, 2).sum(1))
        dimensions = dimensions + over(seen[number, "norm1"][1]) + over(seen[number, "norm2"][1])

    kept = dict(layers=2, neurons=12, groups=1, dimensions=10)
    top = lambda values, count: torch.sort(torch.argsort(-torch.as_tensor(values), stable=True)[:count]).values
    layers, dims = top(influence, kept["layers"]), top(dimensions, kept["dimensions"])
    small = cls(cls.config_class(**(shape | dict(hidden_size=10, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
                                                 num_key_value_heads=1)))).float().eval()
    source, target = model.state_dict(), small.state_dict()
    for name in target:
        old = name
        if ".layers." in name:
            number = int(name.split(".")[2])
            layer = int(layers[number])
            old = name.replace(f".layers.{number}.", f".layers.{layer}.")
            chosen, group = top(neurons[layer], 12), top(groups[layer], 1)
            q = torch.cat([torch.arange(8) + 8 * int(g) for g in group])
            kv = torch.cat([torch.arange(4) + 4 * int(g) for g in group])
        value = source[old]
        if "q_proj" in name:
            value = value[q][:, dims]
        elif "k_proj" in name or "v_proj" in name:
            value = value[kv][:, dims]
        elif "o_proj" in name:
            value = value[dims][:, q]
        elif "gate_proj" in name or "up_proj" in name:
            value = value[chosen][:, dims]
        elif "down_proj" in name:
            value = value[dims][:, chosen]
        else:
            value = value[dims] if value.dim() == 1 else value[:, dims]
        target[name] = value.contiguous()
    small.load_state_dict(target)
    with torch.no_grad():
        logits = small(ids).logits
    save_file({"ids": ids.numpy(), "influence": numpy.array(influence), "neurons": torch.stack(neurons).numpy(), "groups": torch.stack(groups).numpy(),
               "dimensions": dimensions.numpy(), "logits": logits.numpy()}, HERE / "shrink.safetensors")
    print("shrink: influence", numpy.round(influence, 3), "layers", layers.tolist())


def main():
    assert any(carve(seed) for seed in range(500))
    shrink()
    files = sorted(p for p in HERE.rglob("*") if p.is_file() and p.name not in ("SHA256SUMS", "generate.py", "README.md"))
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(HERE).as_posix()}\n" for p in files]
    (HERE / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
