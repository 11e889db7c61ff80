"""PyTorch's answer to each kernel of kernels.py: worker_kernels.py THREADS ROWSxCOLSxOUTPUTS... prints
{"version": ..., "seconds": {name: of a call}}. Needs torch."""

import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

H, I, HEADS, D, KEYS, TOP = 1024, 2048, 8, 128, 128, 64
SAMPLE, SAMPLES = 0.004, 15


def timed(call):
    """The median of some samples of as many calls as make a sample worth timing."""
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.05:
        call()
        calls += 1
    calls = max(1, round(calls * SAMPLE / 0.05))
    samples = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        samples.append((time.perf_counter() - start) / calls)
    return statistics.median(samples)


def linear(rows, cols, outputs, dtype):
    x, weight = torch.randn(rows, cols, dtype=dtype), torch.randn(outputs, cols, dtype=dtype)
    return lambda: F.linear(x, weight)


def linear_int8(rows, cols, outputs):
    """Weights in int8, x quantised in the call: PyTorch has no other way."""
    layer = torch.nn.Sequential(torch.nn.Linear(cols, outputs, bias=False))
    layer = torch.ao.quantization.quantize_dynamic(layer, {torch.nn.Linear}, dtype=torch.qint8)
    x = torch.randn(rows, cols)
    return lambda: layer(x)


def attention(queries, keys):
    """With Doge's mask as transformers hands it over: one value for each head, query and key."""
    q, k, v = (torch.randn(1, HEADS, n, D) for n in (queries, keys, keys))
    mask = torch.randn(1, HEADS, queries, keys)
    if queries > 1:
        mask = mask.masked_fill(torch.ones(queries, keys, dtype=torch.bool).triu(1), torch.finfo(torch.float32).min)
    return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def route(logits):
    """DogeCDMoE of transformers, for one token."""
    (scores_x, scores_y), (indices_x, indices_y) = logits.view(2, 1, KEYS).topk(KEYS, dim=-1)
    scores = (scores_x.unsqueeze(-1) + scores_y.unsqueeze(-2)).view(1, -1)
    indices = (indices_x.unsqueeze(-1) * KEYS + indices_y.unsqueeze(-2)).view(1, -1)
    scores, places = scores.topk(TOP, dim=-1)
    return indices.gather(-1, places), F.softmax(scores, dim=-1)


def router():
    logits = torch.randn(2 * KEYS)
    return lambda: route(logits)


def experts(dtype):
    down, up = (torch.nn.Embedding(KEYS * KEYS, H, dtype=dtype) for _ in range(2))
    indices, weights = route(torch.randn(2 * KEYS))
    x, weights = torch.randn(1, H, 1, dtype=dtype), weights.to(dtype)

    def mix():
        hit = F.silu(torch.matmul(down(indices), x).view(1, -1)) * weights
        return torch.matmul(hit.view(1, 1, -1), up(indices))

    return mix


def kernels(shapes):
    x, weight = torch.randn(1, H), torch.randn(H)
    yield f"rms_norm/f32/1x{H}", lambda: F.rms_norm(x, (H,), weight, 1e-6)
    sizes = [[int(size) for size in shape.split("x")] for shape in shapes]
    for op, shape, size in [("gemv", f"{H}x{I}", [1, H, I]), *(("gemm", shape, size) for shape, size in zip(shapes, sizes))]:
        yield f"{op}/f32/{shape}", linear(*size, torch.float32)
        yield f"{op}_bf16/bf16/{shape}", linear(*size, torch.bfloat16)
        yield f"{op}_int/int8/{shape}", linear_int8(*size)
    for queries, keys in ((1, 2048), (1, 8192), (512, 512)):
        yield f"dynamic_mask_attention/f32/{queries}x{keys}", attention(queries, keys)
    yield f"product_key_router/f32/{KEYS}x{TOP}", router()
    yield f"expert_mix/f32/{TOP}x{H}", experts(torch.float32)
    yield f"expert_mix/bf16/{TOP}x{H}", experts(torch.bfloat16)


torch.set_num_threads(int(sys.argv[1]))
results = {}
with torch.inference_mode():
    for name, call in kernels(sys.argv[2:]):
        try:
            results[name] = timed(call)
        except RuntimeError as error:  # this build has no such kernel
            print(f"{name}: {error}", file=sys.stderr)
json.dump({"version": torch.__version__, "seconds": results}, sys.stdout)
