"""OpenVINO through optimum-intel, batch 1, greedy: a Qwen3 of the same shape with random weights, as there is no Doge.

Usage: worker_openvino.py SIZE FOLDER f32|bf16|int8|int4 THREADS        exports to FOLDER if nothing is there
"""

from worker import serve  # first

import pathlib
import sys
import tempfile
import time

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as op
from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
from transformers import Qwen3Config, Qwen3ForCausalLM

from shapes import HEAD_DIM, MAX_TOKENS, SHAPES, VOCAB

size, folder, dtype, threads = sys.argv[1:5]


def export():
    hidden, inter, layers, heads, kv = SHAPES[size]
    config = Qwen3Config(
        vocab_size=VOCAB, hidden_size=hidden, intermediate_size=inter, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv, head_dim=HEAD_DIM, tie_word_embeddings=True, max_position_embeddings=MAX_TOKENS,
    )
    group = {"group_size": 64, "sym": True} if dtype == "int4" else {}
    bits = {"int8": 8, "int4": 4}.get(dtype)
    how = {"quantization_config": OVWeightQuantizationConfig(bits=bits, **group)} if bits else {"load_in_8bit": False}
    with tempfile.TemporaryDirectory(dir=pathlib.Path(folder).parent) as source:
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).save_pretrained(source)
        OVModelForCausalLM.from_pretrained(source, export=True, compile=False, **how).save_pretrained(folder + ".part")
    pathlib.Path(folder + ".part").rename(folder)


def head_of_the_last_token(model):
    """The head for the last token alone, which is all that a prompt needs: as exported, it multiplies every token's."""
    (logits,) = (output for output in model.outputs if "logits" in output.names)
    head = logits.node.input_value(0).node
    while head.get_type_name() != "MatMul":
        head = head.input_value(0).node
    index = lambda i: op.constant(np.array(i, dtype=np.int64))
    last = op.gather(head.input_value(0), index([-1]), index(1))
    head.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


if not pathlib.Path(folder).exists():
    export()
model = OVModelForCausalLM.from_pretrained(folder, compile=False, ov_config={
    "INFERENCE_NUM_THREADS": threads,
    "INFERENCE_PRECISION_HINT": "f32" if dtype == "f32" else "bf16",
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": "1",
})
head_of_the_last_token(model.model)
model.compile()


def forward(ids, past, length):
    out = model(input_ids=ids, attention_mask=torch.ones(1, length, dtype=torch.int64), past_key_values=past)
    return out.logits[:, -1:].argmax(-1), out.past_key_values


def measure(test, tokens, depth):
    past = None
    if depth:
        past = forward(torch.randint(0, VOCAB, (1, depth)), None, depth)[1]
    ids = torch.randint(0, VOCAB, (1, tokens if test == "pp" else 1))
    start = time.perf_counter()
    if test == "pp":
        forward(ids, past, depth + tokens)
    else:
        for i in range(tokens):
            ids, past = forward(ids, past, depth + i + 1)
    return tokens / (time.perf_counter() - start)


serve(["openvino", "optimum-intel", "nncf", "transformers", "torch"], measure)
