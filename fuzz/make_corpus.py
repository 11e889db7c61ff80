"""Writes the seeds that can be made of the repository's own files; those that the library itself must write are made by
`DOGE_BLESS=1 cargo test --test replay`."""

import json
import pathlib
import struct

ROOT = pathlib.Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz/corpus"


def seed(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)


def safetensors(tensors, metadata=None):
    header, at = ({"__metadata__": metadata} if metadata else {}), 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, data in tensors.values())


def doge(v1=False):
    """The model of CONFIG in targets.rs: V 8, H 4, I 4, one layer, two heads of 2, one K/V head."""
    names = {"norm.weight": [4], "embed_tokens.weight": [8, 4]}
    layer = {
        "input_layernorm.weight": [4], "input_residual": [4], "self_attn.q_proj.weight": [4, 4],
        "self_attn.k_proj.weight": [2, 4], "self_attn.v_proj.weight": [2, 4], "self_attn.dt_proj.weight": [1 + v1, 2],
        "self_attn.A": [1 + v1], "self_attn.o_proj.weight": [4, 4], "post_attention_layernorm.weight": [4],
        "post_attention_residual": [4], "mlp.gate_proj.weight": [4, 4], "mlp.up_proj.weight": [4, 4], "mlp.down_proj.weight": [4, 4],
    }
    if not v1:
        layer |= {"self_attn.q_norm.weight": [2], "self_attn.k_norm.weight": [2]}
    shapes = {f"model.{n}": s for n, s in names.items()} | {f"model.layers.0.{n}": s for n, s in layer.items()}
    tensors = {}
    for i, (name, shape) in enumerate(shapes.items()):
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        tensors[name] = (shape, struct.pack(f"<{n}f", *(((i * 7 + j * 5) % 11 - 5) / 8 for j in range(n))))
    return tensors


for case in ["moe_k2", "rope_yarn", "rope_longrope", "rope_llama3", "rope_dynamic_legacy", "doge2_early"]:
    seed("config", case, json.dumps(json.loads((ROOT / f"tests/golden/{case}/config.json").read_text())))
generation = [(ROOT / f"models/doge-bard/{name}").read_text() for name in ("config.json", "generation_config.json")]
seed("generation_config", "doge-bard", "\n".join(json.dumps(json.loads(text)) for text in generation))
seed("generation_config", "lists", '{"eos_token_id": [1, 2], "bos_token_id": 0}\n{"do_sample": true, "top_k": 5, "temperature": 0.5}')

seed("safetensors", "v2", safetensors(doge()))
seed("safetensors", "v1", safetensors(doge(v1=True)))
seed("safetensors", "empty", safetensors({}))
seed("safetensors", "huge_header", struct.pack("<Q", 1 << 60) + b"{}")
seed("safetensors", "huge_shape", safetensors({"model.norm.weight": ([1 << 62, 4], b"")}))

seed("index", "good", '{"metadata": {"total_size": 4}, "weight_map": {"a": "model-1.safetensors"}}')
seed("index", "climbs", '{"weight_map": {"a": "../model-1.safetensors"}}')
seed("index", "missing", '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')

tokenizer = json.loads((ROOT / "tests/golden/chat_model/tokenizer.json").read_text())
seed("tokenizer", "chat_model", json.dumps(tokenizer, separators=(",", ":")))
vocab = {token: i for i, token in enumerate(list("ab") + ["ab", "\u0120", "<s>"])}
tokenizer["model"] |= {"vocab": vocab, "merges": [["a", "b"]]}
tokenizer["added_tokens"] = [dict(tokenizer["added_tokens"][0], id=4, content="<s>")]
tokenizer["post_processor"] = None
seed("tokenizer", "small", json.dumps(tokenizer, separators=(",", ":")))

for name in ["models/doge-bard", "tests/golden/chat_model"]:
    seed("chat_template", pathlib.Path(name).name, (ROOT / name / "chat_template.jinja").read_text())
seed("chat_template", "loops", "{% for a in range(9) %}{% for m in messages %}{{ m.role|upper }}{{ m['content'][1:] }}{% endfor %}{% endfor %}")
seed("chat_template", "macro", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(messages|tojson) }}{{ raise_exception('x') }}")

# Activations, rows, the operation, then sizes and numbers as doors.rs reads them: zeros where they end.
for operation in range(13):
    seed("doors", f"operation_{operation}", bytes([0, 2, operation, 4, 4, 40, 3] + [i * 37 % 200 + 40 for i in range(150)]))

# (what, a, b, c) as targets.rs reads them.
CALLS = {
    "one_session": [(0, 0, 0, 0), (1, 0, 0, 0), (2, 0, 0, 0), (4, 0, 7, 3), (13, 0, 0, 0), (6, 0, 3, 9), (11, 0, 3, 2), (8, 0, 0, 0),
                    (9, 1, 0, 0), (4, 1, 1, 1), (7, 0, 0, 2), (10, 0, 3, 5), (12, 0, 1, 0), (4, 0, 5, 1), (12, 0, 0, 0), (3, 0, 0, 0)],
    "without_a_model": [(2, 0, 0, 0), (4, 0, 1, 1), (7, 0, 0, 1), (8, 0, 0, 0), (9, 0, 0, 0), (10, 0, 3, 3), (11, 0, 1, 1), (14, 0, 99, 0)],
    "stop_strings": [(0, 0, 0, 0), (1, 0, 0, 0), (2, 0, 0, 0), (15, 0, 0, 0), (11, 0, 3, 2), (16, 97, 98, 97), (11, 0, 2, 1), (11, 0, 255, 4)],
    "full": [(0, 0, 0, 0), (1, 0, 0, 0), (2, 0, 3, 1), (4, 0, 2, 1), (4, 0, 2, 1), (13, 0, 0, 0), (4, 0, 1, 250), (11, 0, 1, 3)],
}
for name, calls in CALLS.items():
    seed("capi", name, bytes(byte for call in calls for byte in call))
