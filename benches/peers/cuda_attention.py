#!/usr/bin/env python3
"""PyTorch's attention on a GPU, for the shapes of Doge-320M's prompts: one line of JSON a row.

    cuda_attention.py [--heads 8] [--head-dim 128] [--window 2048] [LENGTH ...]

explicit: scaled_dot_product_attention with Doge's mask in memory (bias where a key is kept, -infinity where not), which is
what transformers runs. flash: the dense causal kernel of the same size, without bias or mask. bf16, one sequence; the time
is the median between events; TFLOP/s counts the pairs that the mask keeps, for flash all causal ones. What doge does in
this time: the attention_prefill kernels of `doge bench --device cuda -p LENGTH`, by a profiler.
"""

import argparse
import json


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lengths", type=int, nargs="*", default=[2048, 16384])
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--window", type=int, default=2048)
    return parser.parse_args()


args = arguments()  # first, so that --help does without what follows

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def milliseconds(call, rounds=10):
    for _ in range(3):
        call()
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def doge_mask(heads, length, window):
    """[heads, length, length]: of the keys up to its own, a query sees the `window` of largest bias."""
    bias = torch.rand(heads, length, device="cuda") * 4
    mask = torch.full((heads, length, length), float("-inf"), dtype=torch.bfloat16, device="cuda")
    for first in range(0, length, 1024):
        rows = torch.arange(first, min(first + 1024, length), device="cuda")
        for head in range(heads):
            causal = torch.arange(length, device="cuda")[None, :] <= rows[:, None]
            seen = torch.where(causal, bias[head][None, :], float("-inf"))
            if length > window:
                least = seen.topk(window, dim=-1).values[:, -1:]
                seen = torch.where(seen >= least, seen, float("-inf"))
            mask[head, rows] = seen.to(torch.bfloat16)
    return mask


def main():
    for length in args.lengths:
        q, k, v = (torch.randn(1, args.heads, length, args.head_dim, device="cuda", dtype=torch.bfloat16) for _ in range(3))
        causal = length * (length + 1) // 2
        dropped = max(length - args.window, 0)
        kept = causal - dropped * (dropped + 1) // 2
        mask = doge_mask(args.heads, length, args.window)[None]
        rows = [("explicit", kept, lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask))]

        def flash():
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                F.scaled_dot_product_attention(q, k, v, is_causal=True)

        rows.append(("flash", causal, flash))
        for name, pairs, call in rows:
            ms = milliseconds(call)
            tflops = 4 * args.heads * args.head_dim * pairs / ms / 1e9
            row = {"peer": name, "length": length, "window": args.window, "ms": round(ms, 4), "tflops": round(tflops, 1)}
            print(json.dumps(row | {"torch": torch.__version__, "gpu": torch.cuda.get_device_name()}), flush=True)


main()
