#!/usr/bin/env python3
"""Single kernels of doge beside PyTorch's, oneDNN's and the gemm crate's: the same shapes and threads, turn by turn, inputs
that stay in the caches.

Every peer is set up in a folder of its own under target/peers: PyTorch (or the environment that --venv names) and oneDNN
from PyPI, the gemm crate by cargo. Ratios are taken within a round; above 1, doge is faster. gemm of int8: doge's rows of x
are quantised beforehand (a scale for each 32), so are oneDNN's (one scale), PyTorch's in the call. oneDNN has its weights in
the layout it likes best. Writes benches/results/kernels-peers.md.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics

from engine import HERE, REPOSITORY
from environment import Environment, Missing, run

OPS = "rms_norm,gemv,gemm,dynamic_mask_attention,product_key_router,expert_mix"
GEMM = ["32x1024x2048", "512x1024x2048", "512x2048x1024"]
SHAPES = ["1x1024", "1024x2048", *GEMM, "1x2048", "1x8192", "512x512", "128x64", "64x1024"]


def doge(options):
    what = ["--op", OPS, "--shape", ",".join(SHAPES), "--dtype", "f32,bf16,int8", "--mode", "hot", "-t", options.threads]
    return [options.doge, "kernels", *what, "-q", "-o", "json"]


def torch(options):
    environment = Environment(options.work, "kernels", ["torch"], options.venv)
    environment.make()
    return [environment.python, HERE / "worker_kernels.py", options.threads, *GEMM]


def onednn(options):
    """Its library and headers are wheels: the last ones for the OpenMP of GCC."""
    packages = [f"{name}==2023.2.0" for name in ("onednn-cpu-gomp", "onednn-devel-cpu-gomp")]
    environment = Environment(options.work, "onednn", packages, None)
    environment.make()
    libraries, program = environment.folder / "lib", environment.folder / "bin" / "onednn"
    compiler = [os.environ.get("CXX", "c++"), "-O2", "-fopenmp", "-I", environment.folder / "include"]
    run([*compiler, HERE / "onednn.cpp", libraries / "libdnnl.so.3", f"-Wl,-rpath,{libraries}", "-o", program])
    return [program, options.threads, *GEMM]


def gemm_crate(options):
    package, target = HERE / "gemm_crate", options.work / "gemm_crate"
    run(["cargo", "build", "--quiet", "--release", "--manifest-path", package / "Cargo.toml", "--target-dir", target])
    return [target / "release" / "gemm-crate", options.threads, *GEMM]


PEERS = {"torch": torch, "oneDNN": onednn, "gemm crate": gemm_crate}


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

    commands, missing = {"doge": doge(options)}, {}
    for name, set_up in PEERS.items():
        try:
            commands[name] = set_up(options)
        except Missing as why:
            missing[name] = why
    # Each round begins with another one.
    names, rounds = list(commands), []
    for turn in range(options.rounds):
        turn %= len(names)
        answers = {name: json.loads(run(commands[name])) for name in names[turn:] + names[:turn]}
        answers["doge"] = {f"{row['op']}/{row['dtype']}/{row['shape']}": row for row in answers["doge"]}
        rounds.append(answers)
    options.out.write_text("\n".join(report(rounds, names[1:], missing, options)) + "\n")
    print(options.out.read_text())


def report(rounds, peers, missing, options):
    first = rounds[0]
    any_row = next(iter(first["doge"].values()))
    facts = f"{any_row['machine']['cpu']}, {options.threads} threads, {any_row['isa']}, {options.rounds} rounds, {datetime.date.today()}"
    versions = [f"{peer} {first[peer]['version']}" for peer in peers]
    lines = ["# Kernels beside others", "", *__doc__.strip().splitlines(), ""]
    lines += [", ".join([facts, f"commit {(any_row['commit'] or '')[:12]}", *versions]) + ".", ""]
    lines += [f"{name} is missing: {why}." for name, why in missing.items()]
    lines += ["| kernel | doge, µs | % of roof |" + "".join(f" {peer}, µs | × {peer} |" for peer in peers)]
    lines += ["|---|---:|---:|" + "---:|---|" * len(peers)]
    for name in dict.fromkeys(name for peer in peers for name in first[peer]["seconds"]):
        mine = [answers["doge"][name]["seconds"]["median"] for answers in rounds]
        roof = statistics.median(answers["doge"][name]["percent_of_roof"] for answers in rounds)
        line = f"| {name} | {statistics.median(mine) * 1e6:.2f} | {roof:.0f} |"
        for peer in peers:
            theirs = [answers[peer]["seconds"].get(name) for answers in rounds]
            if None in theirs:
                line += " | |"
                continue
            ratios = [b / a for a, b in zip(mine, theirs)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            line += f" {statistics.median(theirs) * 1e6:.2f} | {spread} |"
        lines.append(line)
    return lines


if __name__ == "__main__":
    main()
