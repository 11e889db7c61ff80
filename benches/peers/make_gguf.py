"""Writes an f32 GGUF file of a Doge's shape with random weights, as a Llama with q/k norm (llama.cpp's qwen3 graph).

It has no Doge graph. This one lacks the gated residuals and the dynamic mask: slightly less work for a token.

Usage: make_gguf.py SIZE FILE        needs numpy and gguf
"""

import os
import sys

import gguf
import numpy as np

from shapes import HEAD_DIM, MAX_TOKENS, SHAPES, VOCAB


def main(size, path):
    hidden, inter, layers, heads, kv = SHAPES[size]
    rng = np.random.default_rng(0)
    part = path + ".part"
    writer = gguf.GGUFWriter(part, "qwen3")
    writer.add_name(f"doge-shape-{size}")
    writer.add_vocab_size(VOCAB)
    writer.add_context_length(MAX_TOKENS)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inter)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("no_vocab")

    def matrix(name, rows, cols):
        writer.add_tensor(name, rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(cols**-0.5))

    def norm(name, n):
        writer.add_tensor(name, np.ones(n, np.float32))

    matrix("token_embd.weight", VOCAB, hidden)
    norm("output_norm.weight", hidden)
    for i in range(layers):
        layer = f"blk.{i}."
        norm(layer + "attn_norm.weight", hidden)
        matrix(layer + "attn_q.weight", heads * HEAD_DIM, hidden)
        matrix(layer + "attn_k.weight", kv * HEAD_DIM, hidden)
        matrix(layer + "attn_v.weight", kv * HEAD_DIM, hidden)
        norm(layer + "attn_q_norm.weight", HEAD_DIM)
        norm(layer + "attn_k_norm.weight", HEAD_DIM)
        matrix(layer + "attn_output.weight", hidden, heads * HEAD_DIM)
        norm(layer + "ffn_norm.weight", hidden)
        matrix(layer + "ffn_gate.weight", inter, hidden)
        matrix(layer + "ffn_up.weight", inter, hidden)
        matrix(layer + "ffn_down.weight", hidden, inter)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(part, path)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
