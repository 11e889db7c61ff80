"""transformers' DogeForCausalLM, batch 1, greedy.

Usage: worker_transformers.py MODEL_FOLDER f32|bf16 THREADS [--compile]
"""

from worker import serve  # first

import sys
import time

import torch
from transformers import DogeForCausalLM, DynamicCache, StaticCache

folder, dtype, threads = sys.argv[1:4]
compiled = "--compile" in sys.argv
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
torch.set_num_threads(int(threads))
model = DogeForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
config = model.config
step = torch.compile(model.forward, dynamic=False) if compiled else model.forward


def cache_of(depth, more):
    """A cache of `depth` random entries: their values do not matter to the speed, and no prompt needs to be taken in."""
    if compiled:
        cache = StaticCache(config=config, max_cache_len=-(-(depth + more) // 64) * 64)
    else:
        cache = DynamicCache(config=config)
    if depth:
        shape = (1, config.num_key_value_heads, depth, config.head_dim)
        for layer in range(config.num_hidden_layers):
            cache.update(torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype), layer)
    return cache


def measure(test, tokens, depth):
    ids = torch.randint(0, config.vocab_size, (1, tokens if test == "pp" else 1))
    with torch.inference_mode():
        cache = cache_of(depth, tokens)
        if test == "pp":
            places = torch.arange(depth, depth + tokens)[None]
            start = time.perf_counter()
            out = model(input_ids=ids, position_ids=places, past_key_values=cache, use_cache=True, logits_to_keep=1)
            out.logits.argmax(-1)
        else:
            start = time.perf_counter()
            for place in range(depth, depth + tokens):
                places = torch.tensor([[place]])
                out = step(input_ids=ids, position_ids=places, past_key_values=cache, use_cache=True)
                ids = out.logits[:, -1:].argmax(-1)
        return tokens / (time.perf_counter() - start)


serve(["torch", "transformers"], measure)
