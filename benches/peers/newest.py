#!/usr/bin/env python3
"""How many times as fast as others doge is, from the newest run of each row in benches/results: the README's table.

A row is a model (60M to 320M), formats, test and level. Runs at a level below what their CPU has (--isa) are left out: the others
were not held to it.

Usage: newest.py        prints the table
"""

import json

import report
from engine import REPOSITORY

MODELS = ["60m", "160m", "320m"]
LEVELS = {"avx2": "AVX2", "avx512bf16": "AVX-512", "amx": "AMX"}  # each the best of one of the machines
PEERS = {"llama.cpp": "llama.cpp", "openvino": "OpenVINO"}
LINES = {
    "decode, f32 and bf16": ("tg", ["f32 × f32", "bf16 × f32", "bf16 × bf16"]),
    "decode, int8 and int4": ("tg", ["int8 × int8", "int4 × int8"]),
    "prompts, f32": ("pp", ["f32 × f32"]),
    "prompts, bf16 × f32": ("pp", ["bf16 × f32"]),
    "prompts, bf16 × bf16": ("pp", ["bf16 × bf16"]),
    "prompts, int8 and int4": ("pp", ["int8 × int8", "int4 × int8"]),
}


def newest():
    """Test, formats, level and peer of each row to its ratios."""
    rows = {}
    results = [json.loads(file.read_text()) for file in (REPOSITORY / "benches" / "results").glob("2*.json")]
    for result in sorted(results, key=lambda result: result["date"]):
        for row in result["rows"]:
            if row["section"] != "main" or row["model"] not in MODELS:
                continue
            for ours, peer in ((ours, peer) for ours in report.OURS for peer in PEERS):
                mine, ratio = row["engines"].get(ours), row["engines"].get(peer, {}).get("slower_than", {}).get(ours)
                if mine and ratio and mine["isa"] in LEVELS:
                    formats = f"{row['dtype']} × {mine['activations']}"
                    key = (row["test"][:2], formats, mine["isa"], peer)
                    rows[(*key, row["model"], mine.get("kv_dtype", "f32"))] = key, ratio
    ratios = {}
    for key, ratio in rows.values():
        ratios.setdefault(key, []).append(ratio)
    return ratios


def main():
    ratios, lines = newest(), []
    for name, (test, every) in LINES.items():
        cells = []
        for peer in PEERS:
            for level in LEVELS:
                found = [ratio for formats in every for ratio in ratios.get((test, formats, level, peer), [])]
                cells.append(f"{min(found):.1f} to {max(found):.1f}" if found else "—")
        lines.append([name, *cells])
    head = [f"{peer}, {level}" for peer in PEERS.values() for level in LEVELS.values()]
    print("\n".join(report.table(["weights × input", *head], lines)))


if __name__ == "__main__":
    main()
