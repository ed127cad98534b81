"""torch and numpy at the jobs of the benches `moe` and `routing`, for alternating rounds.

usage: peers.py THREADS PEER JOB SIZES...
    PEER torch-onednn | torch-linear | torch-grouped_mm | torch-qlinear, JOB experts, SIZES tokens hidden intermediate experts top_k
    PEER torch | numpy, JOB choose, SIZES tokens experts groups kept top_k
    PEER numpy | numpy-out, JOB permute, SIZES tokens hidden experts top_k

The first line of the input has the expert ids [tokens, top_k] (empty for `choose`). Each further line is a number of times to
do the job; the answer is the seconds that all of them took, or what went wrong. Weights are prepacked before the clock starts.
needs: pip install torch numpy"""

import os
import sys
import time

THREADS, PEER, JOB = sys.argv[1:4]
SIZES = [int(size) for size in sys.argv[4:]]
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = THREADS
import numpy as np

if PEER.startswith("torch"):
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(int(THREADS))


def small(*shape, dtype):
    """Small values of both signs, of which the first million repeat."""
    block = (torch.rand(1 << 20) - 0.5) * 0.1
    out = torch.empty(shape, dtype=dtype)
    for part in out.view(-1).split(1 << 20):
        part.copy_(block[: part.numel()])
    return out


def experts(ids):
    tokens, hidden, inner, count, top_k = SIZES
    ids = torch.tensor(ids).view(tokens, top_k)
    weights = torch.full((tokens, top_k), 1.0 / top_k)
    x = small(tokens, hidden, dtype=torch.bfloat16)
    up, down = (count, 2 * inner, hidden), (count, hidden, inner)

    def sorted_slots():
        chosen, order = torch.sort(ids.view(-1), stable=True)
        return order, torch.bincount(chosen, minlength=count)

    def by_expert(first, second, dtype):
        """One expert after the other; `first` and `second` are its products."""

        def run():
            out = torch.zeros(tokens, hidden, dtype=dtype)
            order, counts = sorted_slots()
            share = weights.view(-1)[order].to(dtype).unsqueeze(1)
            start = 0
            for expert, rows in enumerate(counts.tolist()):
                if rows == 0:
                    continue
                own = slice(start, start + rows)
                token = order[own] // top_k
                gate, value = first(expert, x[token]).chunk(2, 1)
                out.index_add_(0, token, second(expert, F.silu(gate) * value) * share[own])
                start += rows
            return out

        return run

    if PEER == "torch-onednn":
        rows = max(1, tokens * top_k // count)
        pack = lambda shape: [torch.ops.mkldnn._reorder_linear_weight(w, rows) for w in small(*shape, dtype=x.dtype)]
        up, down = pack(up), pack(down)
        linear = lambda x, w: torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], None)
        return by_expert(lambda e, x: linear(x, up[e]), lambda e, x: linear(x, down[e]), x.dtype)

    if PEER == "torch-qlinear":
        # int8 activations are u8 with zero point 128 to oneDNN, which has no fast kernel for signed ones.
        def quantised(shape):
            each = []
            for _ in range(shape[0]):
                weight = torch.randint(-127, 128, shape[1:], dtype=torch.int8)
                packed = torch.ops.onednn.qlinear_prepack(weight, None)
                each.append((packed, torch.full(shape[1:2], 1e-3), torch.zeros(shape[1], dtype=torch.int64)))
            return each

        def linear(x, weight):
            scale = x.abs().amax(1, keepdim=True).float() / 127
            whole = (x / scale).round().add_(128).to(torch.uint8)
            packed, scales, zeros = weight
            args = (whole, 1.0, 128, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")
            return torch.ops.onednn.qlinear_pointwise(*args).mul_(scale)

        up, down = quantised(up), quantised(down)
        return by_expert(lambda e, x: linear(x, up[e]), lambda e, x: linear(x, down[e]), torch.float32)

    up, down = small(*up, dtype=x.dtype), small(*down, dtype=x.dtype)
    if PEER == "torch-linear":
        return by_expert(lambda e, x: F.linear(x, up[e]), lambda e, x: F.linear(x, down[e]), x.dtype)
    up, down = up.transpose(1, 2), down.transpose(1, 2)

    def grouped():
        order, counts = sorted_slots()
        ends = torch.cumsum(counts, 0, dtype=torch.int32)
        gate, value = F.grouped_mm(x[order // top_k], up, offs=ends).chunk(2, 1)
        rows = F.grouped_mm(F.silu(gate) * value, down, offs=ends) * weights.view(-1)[order].to(x.dtype).unsqueeze(1)
        return torch.zeros_like(x).index_add_(0, order // top_k, rows)

    return grouped


def choose(_):
    tokens, count, groups, kept, top_k = SIZES
    random = np.random.default_rng(7)
    logits = random.standard_normal((tokens, count), dtype=np.float32)
    bias = 0.1 * random.standard_normal(count, dtype=np.float32)

    def by_numpy():
        scores = 1 / (1 + np.exp(-logits))
        choice = (scores + bias).reshape(tokens, groups, -1)
        best = np.partition(choice, -2, axis=2)[:, :, -2:].sum(2)
        dropped = np.ones((tokens, groups, 1), bool)
        np.put_along_axis(dropped, np.argpartition(-best, kept - 1, axis=1)[:, :kept, None], False, axis=1)
        choice = np.where(dropped, -np.inf, choice).reshape(tokens, count)
        ids = np.argpartition(-choice, top_k - 1, axis=1)[:, :top_k]
        weights = np.take_along_axis(scores, ids, axis=1)
        return ids, 2.5 * weights / weights.sum(1, keepdims=True)

    if PEER == "numpy":
        return by_numpy
    logits, bias = torch.from_numpy(logits), torch.from_numpy(bias)

    def by_torch():
        scores = logits.sigmoid()
        choice = (scores + bias).view(tokens, groups, -1)
        best = choice.topk(2, dim=2).values.sum(2).topk(kept, dim=1, sorted=False).indices
        dropped = torch.ones(tokens, groups, dtype=torch.bool).scatter_(1, best, False)
        choice = choice.masked_fill(dropped.unsqueeze(2), float("-inf")).view(tokens, count)
        ids = choice.topk(top_k, dim=1, sorted=False).indices
        weights = scores.gather(1, ids)
        return ids, 2.5 * weights / weights.sum(1, keepdim=True)

    return by_torch


def permute(ids):
    tokens, hidden, count, top_k = SIZES
    ids = np.array(ids)
    # Not zeros, whose pages would all be one.
    x = np.full((tokens, hidden), 0x3F80, np.uint16)
    out = np.ones((tokens * top_k, hidden), np.uint16)

    def run():
        order = ids.argsort(kind="stable")
        counts = np.bincount(ids, minlength=count)
        # `out` exists already for one of the two; the other gets a new array each time.
        rows = np.take(x, order // top_k, axis=0, out=out, mode="clip") if PEER == "numpy-out" else x[order // top_k]
        return order, counts, rows

    return run


def main():
    ids = [int(word) for word in sys.stdin.readline().split()]
    try:
        run = {"experts": experts, "choose": choose, "permute": permute}[JOB](ids)
        if PEER.startswith("torch"):
            run = torch.no_grad()(run)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        run = None
    for line in sys.stdin:
        if run is None:
            print(problem, flush=True)
            continue
        start = time.perf_counter()
        for _ in range(int(line)):
            run()
        print(time.perf_counter() - start, flush=True)


main()
