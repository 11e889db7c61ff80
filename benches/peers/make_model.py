"""Writes a Doge checkpoint of a published shape with random weights, as transformers names its tensors.

Usage: make_model.py SIZE FOLDER [--dtype f32|bf16] [--keep-window N]        needs numpy
"""

import argparse
import json
import math
import os
import pathlib

from shapes import HEAD_DIM, MAX_TOKENS, SHAPES, VOCAB

DTYPES = {"f32": ("F32", "float32"), "bf16": ("BF16", "bfloat16")}  # in safetensors' words, and in config.json's


def tensors(hidden, inter, layers, heads, kv):
    """Names, shapes, and how to make each one, as f32."""
    import numpy as np  # here, so that --help does without

    rng = np.random.default_rng(0)

    def matrix(rows, cols):
        return (rows, cols), lambda: rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(cols**-0.5)

    def vector(n, middle, width):
        return (n,), lambda: (middle + width * rng.uniform(-1, 1, n)).astype(np.float32)

    yield "model.embed_tokens.weight", *matrix(VOCAB, hidden)
    yield "model.norm.weight", *vector(hidden, 1, 0.1)
    for i in range(layers):
        for name, (shape, make) in {
            "input_layernorm.weight": vector(hidden, 1, 0.1),
            "input_residual": vector(hidden, 0.9, 0.05),
            "self_attn.q_proj.weight": matrix(heads * HEAD_DIM, hidden),
            "self_attn.k_proj.weight": matrix(kv * HEAD_DIM, hidden),
            "self_attn.v_proj.weight": matrix(kv * HEAD_DIM, hidden),
            "self_attn.dt_proj.weight": matrix(kv, kv * HEAD_DIM),
            "self_attn.A": vector(kv, 0, 0.3),
            "self_attn.q_norm.weight": vector(HEAD_DIM, 1, 0.1),
            "self_attn.k_norm.weight": vector(HEAD_DIM, 1, 0.1),
            "self_attn.o_proj.weight": matrix(hidden, heads * HEAD_DIM),
            "post_attention_layernorm.weight": vector(hidden, 1, 0.1),
            "post_attention_residual": vector(hidden, 0.9, 0.05),
            "mlp.gate_proj.weight": matrix(inter, hidden),
            "mlp.up_proj.weight": matrix(inter, hidden),
            "mlp.down_proj.weight": matrix(hidden, inter),
        }.items():
            yield f"model.layers.{i}.{name}", shape, make


def to_bytes(x, dtype):
    import numpy as np

    if dtype == "f32":
        return x.tobytes()
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()  # to the nearest, ties to even


def write_safetensors(path, shape, dtype):
    """The length of a JSON header, the header, the data: numpy has no bf16 that a library could take."""
    width, header, end = {"f32": 4, "bf16": 2}[dtype], {"__metadata__": {"format": "pt"}}, 0
    for name, dims, _ in tensors(*shape):
        start, end = end, end + width * math.prod(dims)
        header[name] = {"dtype": DTYPES[dtype][0], "shape": list(dims), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)  # so that the data is aligned
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, make in tensors(*shape):
            file.write(to_bytes(make(), dtype))
    os.replace(part, path)


def main(size, folder, dtype, keep_window):
    hidden, inter, layers, heads, kv = SHAPES[size]
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", SHAPES[size], dtype)
    config = {
        "architectures": ["DogeForCausalLM"],
        "model_type": "doge",
        "vocab_size": VOCAB,
        "hidden_size": hidden,
        "intermediate_size": inter,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_TOKENS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "keep_window_size": keep_window,
        "is_moe": False,
        "tie_word_embeddings": True,
        "dtype": DTYPES[dtype][1],
    }
    # Last: a folder with a config is complete.
    (folder / "config.json").write_text(json.dumps(config, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SHAPES)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--keep-window", type=int, default=2048)
    options = parser.parse_args()
    main(options.size, options.folder, options.dtype, options.keep_window)
