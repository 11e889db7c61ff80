#!/usr/bin/env python3
"""Single kernels of doge beside PyTorch's: the same shapes and threads, turn by turn, inputs that stay in the caches.

PyTorch gets a Python environment of its own under target/peers, or the one that --venv names. Ratios are taken within a
round. gemm of int8: doge's rows of x are quantised beforehand, PyTorch's in the call. Writes
benches/results/kernels-peers.md.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics

from engine import HERE, REPOSITORY
from environment import Environment, run

OPS = "rms_norm,gemv,gemm,dynamic_mask_attention,product_key_router,expert_mix"
SHAPES = "1x1024,1024x2048,512x1024x2048,1x2048,1x8192,512x512,128x64,64x1024"


def doge(options):
    command = [options.doge, "kernels", "--op", OPS, "--shape", SHAPES, "--mode", "hot", "-t", options.threads, "-q", "-o", "json"]
    return json.loads(run(command))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--venv", help="an environment with torch to use as it is")
    parser.add_argument("--doge", type=pathlib.Path, default=REPOSITORY / "target" / "release" / "doge")
    parser.add_argument("--work", type=pathlib.Path, default=REPOSITORY / "target" / "peers")
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "benches" / "results" / "kernels-peers.md")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch = Environment(options.work, "kernels", ["torch"], options.venv)
    torch.make()

    rounds = []
    for turn in range(options.rounds):
        turns = [lambda: doge(options), lambda: json.loads(run([torch.python, HERE / "worker_kernels.py", options.threads]))]
        if turn % 2:
            theirs, ours = turns[1](), turns[0]()
        else:
            ours, theirs = turns[0](), turns[1]()
        rounds.append(({f"{row['op']}/{row['dtype']}/{row['shape']}": row for row in ours}, theirs))

    first, theirs = rounds[0]
    any_row = next(iter(first.values()))
    middle = lambda values: statistics.median(values)
    lines = ["# Kernels beside PyTorch", "", __doc__.split("\n\n")[0], ""]
    commit = (any_row["commit"] or "")[:12]
    facts = f"{any_row['machine']['cpu']}, {options.threads} threads, {any_row['isa']}, {options.rounds} rounds, {datetime.date.today()}"
    lines += [f"{facts}, commit {commit}, torch {theirs['torch']}.", ""]
    lines += ["| kernel | doge, µs | % of roof | torch, µs | × torch | in the rounds |", "|---|---:|---:|---:|---:|---|"]
    for name in theirs["seconds"]:
        mine = [ours[name]["seconds"]["median"] for ours, _ in rounds]
        peer = [theirs["seconds"][name] for _, theirs in rounds]
        ratios = [b / a for a, b in zip(mine, peer)]
        roof = middle([ours[name]["percent_of_roof"] for ours, _ in rounds])
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        lines.append(
            f"| {name} | {middle(mine) * 1e6:.2f} | {roof:.0f} | {middle(peer) * 1e6:.2f} | {middle(ratios):.2f} | {spread} |"
        )
    options.out.write_text("\n".join(lines) + "\n")
    print(options.out.read_text())


if __name__ == "__main__":
    main()
