"""Writes a Doge checkpoint of a published shape with random f32 weights, as transformers names its tensors.

Usage: make_model.py SIZE FOLDER [KEEP_WINDOW]        needs numpy and safetensors
"""

import json
import pathlib
import sys

import numpy as np
from safetensors.numpy import save_file

from shapes import HEAD_DIM, MAX_TOKENS, SHAPES, VOCAB


def tensors(hidden, inter, layers, heads, kv):
    rng = np.random.default_rng(0)

    def matrix(rows, cols):
        return rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(cols**-0.5)

    def vector(n, middle, width):
        return (middle + width * rng.uniform(-1, 1, n)).astype(np.float32)

    yield "model.embed_tokens.weight", matrix(VOCAB, hidden)
    yield "model.norm.weight", vector(hidden, 1, 0.1)
    for i in range(layers):
        for name, value in {
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
            yield f"model.layers.{i}.{name}", value


def main(size, folder, keep_window):
    hidden, inter, layers, heads, kv = SHAPES[size]
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors(*SHAPES[size])), folder / "model.safetensors", metadata={"format": "pt"})
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
        "dtype": "float32",
    }
    # Last: a folder with a config is complete.
    (folder / "config.json").write_text(json.dumps(config, indent=1))


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in SHAPES:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) == 4 else 2048)
