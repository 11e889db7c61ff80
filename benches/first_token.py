#!/usr/bin/env python3
"""How long it takes from the start of `doge generate` to its first token, for a checkpoint that lies in the page cache.

Makes a 320M in bf16 with random weights and a tokenizer of 32768 tokens under target/peers, runs it some times, and tells
where the time goes. Exit code 1 if the median is above --limit.

Needs a release build; numpy comes from PyPI into an environment of its own.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "benches" / "peers"))

from environment import Environment, run
from shapes import SHAPES, VOCAB


def tokenizer(path):
    """doge-bard's, with made-up merges of two of its tokens up to the size of the published ones."""
    whole = json.loads((REPOSITORY / "models" / "doge-bard" / "tokenizer.json").read_text())
    vocab, merges = whole["model"]["vocab"], whole["model"]["merges"]
    special = {token["content"] for token in whole["added_tokens"]}
    pieces = [token for token in vocab if token not in special]
    taken = set(vocab.values()) | {token["id"] for token in whole["added_tokens"]}
    free = iter(sorted(set(range(VOCAB)) - taken))
    pairs = ((left, right) for right in pieces for left in pieces)
    while len(vocab) + len(special - set(vocab)) < VOCAB:
        left, right = next(pairs)
        if left + right not in vocab:
            vocab[left + right] = next(free)
            merges.append([left, right] if isinstance(merges[0], list) else f"{left} {right}")
    path.write_text(json.dumps(whole, ensure_ascii=False))


def checkpoint(work, size):
    folder = work / "models" / f"{size}-bf16-w2048"
    if not (folder / "config.json").exists():
        tools = Environment(work, "files", ["numpy"], None)
        tools.make()
        run([tools.python, REPOSITORY / "benches" / "peers" / "make_model.py", size, folder, "--dtype", "bf16"])
    if not (folder / "tokenizer.json").exists():
        tokenizer(folder / "tokenizer.json")
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="320m")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--limit", type=float, default=0.3, help="seconds")
    parser.add_argument("--doge", type=pathlib.Path, default=REPOSITORY / "target" / "release" / "doge")
    parser.add_argument("--work", type=pathlib.Path, default=REPOSITORY / "target" / "peers")
    parser.add_argument("more", nargs="*", help="after --: further arguments of doge generate")
    options = parser.parse_args()
    folder = checkpoint(options.work, options.size)
    for file in folder.iterdir():
        file.read_bytes()  # into the page cache
    command = [options.doge, "generate", "-m", folder, "-p", "Once upon a time", "-n", "1", "--json", "-q", *options.more]
    walls, parts, before = [], [], resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(options.runs):
        start = time.perf_counter()
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        walls.append(time.perf_counter() - start)
        if done.returncode:
            sys.exit(done.stderr)
        parts.append(json.loads(done.stdout)["timings"])
    median = statistics.median(walls)
    milliseconds = lambda name: 1e3 * statistics.median(part[f"{name}_seconds"] or 0 for part in parts)
    told = {"load": milliseconds("load"), "prompt": milliseconds("prefill"), "sampling": milliseconds("sampling")}
    told["start, end and the rest"] = 1e3 * median - sum(told.values())
    print(f"{options.size} bf16, {parts[0]['prefill_tokens']} tokens of prompt: first token after {1e3 * median:.0f} ms "
          f"({1e3 * min(walls):.0f} to {1e3 * max(walls):.0f}, {options.runs} runs), of which")
    for name, time_of_it in told.items():
        print(f"  {time_of_it:6.1f} ms  {name}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    each = lambda name: (getattr(used, name) - getattr(before, name)) / options.runs
    print(f"CPU in a run: {1e3 * each('ru_utime'):.0f} ms in the program, {1e3 * each('ru_stime'):.0f} ms in the kernel, "
          f"{each('ru_minflt'):.0f} page faults")
    if median > options.limit:
        sys.exit(f"more than {1e3 * options.limit:.0f} ms")


if __name__ == "__main__":
    main()
