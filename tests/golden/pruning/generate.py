"""Golden values of the pruning methods, in numpy float64, written from the papers' equations.

Run with any numpy, scipy and safetensors: python generate.py. Writes pruning.safetensors and SHA256SUMS beside this file.

FLAP        An et al. 2023, arXiv 2312.11983: the fluctuation metric of an input channel, its sample variance over the tokens times the squared
            norm of the weight's column (the method's WIFV), and the baseline bias W ((1 - M) * mean(X)).
Wanda       Sun et al. 2023, arXiv 2306.11695, equation 1: S_ij = |W_ij| ||X_j||_2, compared within each output row.
SparseGPT   Frantar and Alistarh 2023, arXiv 2301.00774, algorithm 1, with blocks of 128 columns, and its n:m variant: the mask of each group is
            chosen when the group is reached.
HC-SMoE     Chen et al. 2024, arXiv 2410.08589: agglomerative clustering of mean expert outputs, average linkage, Euclidean distance.
Super experts  Su et al. 2025, arXiv 2507.23279: above the 99.5th percentile and a tenth of the largest.
"""

import hashlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.cluster.hierarchy import fcluster, linkage

HERE = Path(__file__).parent
BLOCK = 128


def flap(h, w, kept):
    variance = h.var(axis=0, ddof=1)
    score = variance * (w**2).sum(axis=0)
    removed = np.ones(h.shape[1], bool)
    removed[kept] = False
    return variance, score, w @ (removed * h.mean(axis=0))


def lowest(scores, count):
    """A mask of the `count` lowest, of equals the first."""
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(scores.ravel(), kind="stable")[:count]] = True
    return mask.reshape(scores.shape)


def by_group(scores, zeros, group):
    rows, columns = scores.shape
    parts = scores.reshape(rows, columns // group, group)
    order = np.argsort(parts, axis=2, kind="stable")[:, :, :zeros]
    mask = np.zeros(parts.shape, bool)
    np.put_along_axis(mask, order, True, axis=2)
    return mask.reshape(rows, columns)


def wanda(w, x, share=None, zeros=0, group=0):
    scores = np.abs(w) * np.sqrt((x**2).sum(axis=0))
    if group:
        mask = by_group(scores, zeros, group)
    else:
        mask = np.stack([lowest(row, int(share * row.size)) for row in scores])
    return np.where(mask, 0, w)


def magnitude(w, share):
    return np.where(lowest(np.abs(w), int(share * w.size)), 0, w)


def sparse_gpt(w, hessian, dampening, share=None, zeros=0, group=0):
    w = w.copy()
    n = w.shape[1]
    damped = hessian + dampening * np.mean(np.diag(hessian)) * np.eye(n)
    inverse = np.linalg.inv(damped)
    upper = np.linalg.cholesky(inverse).T  # H^-1 = U^T U
    for begin in range(0, n, BLOCK):
        end = min(begin + BLOCK, n)
        mask = np.zeros((w.shape[0], end - begin), bool)
        diagonal = np.diag(upper)[begin:end]
        if not group:
            mask = lowest((w[:, begin:end] / diagonal) ** 2, int(share * w.shape[0] * (end - begin)))
        errors = np.zeros((w.shape[0], end - begin))
        for i in range(begin, end):
            if group and (i - begin) % group == 0:
                part = slice(i, i + group)
                mask[:, i - begin : i - begin + group] = by_group((w[:, part] / np.diag(upper)[part]) ** 2, zeros, group)
            gone = mask[:, i - begin]
            error = np.where(gone, w[:, i], 0) / upper[i, i]
            w[:, i] = np.where(gone, 0, w[:, i])
            w[:, i + 1 : end] -= np.outer(error, upper[i, i + 1 : end])
            errors[:, i - begin] = error
        w[:, end:] -= errors @ upper[begin:end, end:]
    return w


def main():
    random = np.random.default_rng(20)
    out = {}

    h, w = random.normal(size=(40, 96)) * random.uniform(0.1, 2, 96) + random.normal(size=96), random.normal(size=(8, 96))
    h, w = h.astype(np.float32).astype(float), w.astype(np.float32).astype(float)
    kept = np.sort(random.permutation(96)[:32])
    variance, score, bias = flap(h, w, kept)
    out |= {"flap.down": w, "flap.mean": h.mean(axis=0), "flap.variance": variance, "flap.kept": kept, "flap.score": score, "flap.bias": bias}

    rows, columns, tokens = 12, 160, 400
    x = random.normal(size=(tokens, columns)) @ (np.eye(columns) + 0.1 * random.normal(size=(columns, columns))) * random.uniform(0.2, 3, columns)
    w = random.normal(size=(rows, columns)).astype(np.float32).astype(float)
    hessian = (x.T @ x / tokens).astype(np.float32).astype(float)
    out |= {"weight": w, "hessian": hessian, "norm": np.sqrt((x**2).mean(axis=0))}
    out |= {"magnitude.0.5": magnitude(w, 0.5), "wanda.0.5": wanda(w, x, 0.5), "wanda.2:4": wanda(w, x, zeros=2, group=4)}
    out |= {"sparsegpt.0.5": sparse_gpt(w, hessian, 0.01, 0.5), "sparsegpt.2:4": sparse_gpt(w, hessian, 0.01, zeros=2, group=4)}

    vectors = random.normal(size=(12, 6)).astype(np.float32)
    tree = linkage(vectors.astype(float), method="average", metric="euclidean")
    out |= {"cluster.vectors": vectors}
    for count in (2, 5, 9):
        out[f"cluster.{count}"] = fcluster(tree, count, criterion="maxclust")
    largest = np.abs(random.normal(size=(4, 64))).astype(np.float32)
    largest[1, 7], largest[2, 40] = 90.0, 30.0
    limit = max(np.percentile(largest.astype(float), 99.5), 0.1 * largest.max())
    out |= {"super.largest": largest, "super.mask": (largest > limit)}

    arrays = {k: np.ascontiguousarray(v if v.dtype.kind in "iub" else v.astype(np.float32)) for k, v in out.items()}
    arrays = {k: v.astype(np.int32) if v.dtype.kind in "iub" else v for k, v in arrays.items()}
    save_file(arrays, HERE / "pruning.safetensors")
    digest = hashlib.sha256((HERE / "pruning.safetensors").read_bytes()).hexdigest()
    (HERE / "SHA256SUMS").write_text(f"{digest}  pruning.safetensors\n")


if __name__ == "__main__":
    main()
