#!/usr/bin/env python3
"""Measures doge beside transformers, llama.cpp and OpenVINO: the same shapes, the same threads, turn by turn.

Only the standard library is needed to start: each engine gets a Python environment of its own from PyPI, under
target/peers. An engine that cannot be set up, or has no such format, is listed with the reason. In every round each
engine has its turn, in rotating order; ratios are taken within a round, so that a machine that drifts drifts for all.
A turn during which others used more than --quiet of the CPUs is taken again, at most --again times, and marked ! if
it was never quiet.

transformers loads the very checkpoint that doge loads. llama.cpp and OpenVINO have no Doge: they run a Qwen3 of the same
shape, which has neither the dynamic mask nor the gated residuals, so slightly less to do.

Writes one Markdown table and one JSON file to benches/results.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import sys

from engines import ENGINES, REPOSITORY, Missing, run
from quiet import Watch
from shapes import SHAPES


def arguments():
    words = lambda text: [word for word in text.split(",") if word]
    numbers = lambda text: [int(word) for word in words(text)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=words, default=["doge", "transformers", "llama.cpp", "openvino"], help=", ".join(ENGINES))
    parser.add_argument("--sizes", type=words, default=list(SHAPES), help=", ".join(SHAPES))
    parser.add_argument("--dtypes", type=words, default=["f32", "bf16"], help="doge's words: f32, bf16, int8, int4")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2, help="of each engine in a round")
    parser.add_argument("--prompt", type=int, default=512, help="tokens; 0: no such test")
    parser.add_argument("--generate", type=int, default=64, help="tokens; 0: no such test")
    parser.add_argument("--depths", type=numbers, default=[0])
    parser.add_argument("--keep-window", type=int, default=2048, help="keep_window_size of the Doge checkpoint")
    parser.add_argument("--quiet", type=float, default=0.05, help="share of all CPUs that others may use")
    parser.add_argument("--again", type=int, default=2)
    parser.add_argument("--venv", action="append", default=[], metavar="[ENGINE=]PATH", help="an environment to use as it is")
    parser.add_argument("--doge", type=pathlib.Path, default=REPOSITORY / "target" / "release" / "doge")
    parser.add_argument("--work", type=pathlib.Path, default=REPOSITORY / "target" / "peers", help="environments and models")
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "benches" / "results")
    options = parser.parse_args()
    for known, asked in ((ENGINES, options.engines), (SHAPES, options.sizes)):
        for word in asked:
            if word not in known:
                parser.error(f"unknown: {word}; known are {', '.join(known)}")
    pairs = [venv.split("=", 1) if "=" in venv else ["", venv] for venv in options.venv]
    options.venv = {engine: str(pathlib.Path(path).absolute()) for engine, path in pairs}
    options.doge, options.work = options.doge.absolute(), options.work.absolute()
    options.work.mkdir(parents=True, exist_ok=True)
    options.tests = [(test, n) for test, n in (("pp", options.prompt), ("tg", options.generate)) if n]
    return options


def say(text):
    print(text, file=sys.stderr, flush=True)


def take(engine, options, test, tokens, depth):
    """Samples of one turn, and whether it was quiet. The quietest of the turns taken."""
    best = None
    for _ in range(options.again + 1):
        watch = Watch(engine.pids())
        samples = engine.samples(test, tokens, depth, options.samples)
        foreign = watch.foreign()
        if best is None or (foreign is not None and foreign < best[1]):
            best = (samples, foreign if foreign is not None else 0.0)
        if best[1] <= options.quiet:
            break
    return best[0], best[1] <= options.quiet


def measure(engines, options, size, dtype):
    """Rows of one size and format, and what is missing there."""
    missing, ready = {}, []
    for engine in engines:
        try:
            if engine.dtypes and dtype not in engine.dtypes:
                raise Missing(f"has no {dtype}")
            engine.open(size, dtype)
            ready.append(engine)
        except Missing as why:
            engine.close()
            missing[engine.name] = str(why)
    rows = []
    for depth in options.depths:
        for test, tokens in options.tests:
            rounds = {engine.name: [] for engine in ready}
            loud = set()
            for turn in range(options.rounds):
                order = ready[turn % max(1, len(ready)):] + ready[: turn % max(1, len(ready))]
                for engine in order:
                    if engine.name in missing:
                        continue
                    try:
                        samples, quiet = take(engine, options, test, tokens, depth)
                    except Missing as why:
                        missing[engine.name] = f"{test}{tokens} at depth {depth}: {why}"
                        continue
                    rounds[engine.name].append(samples)
                    if not quiet:
                        loud.add(engine.name)
            row = {"model": size, "dtype": dtype, "threads": options.threads, "test": f"{test}{tokens}", "depth": depth, "engines": {}}
            for engine in ready:
                if len(rounds[engine.name]) == options.rounds:
                    row["engines"][engine.name] = summary(rounds, engine, engine.name not in loud)
                    percent = getattr(engine, "percent", {}).get((test, tokens, depth))
                    if percent:
                        row["engines"][engine.name]["percent_of_roof"] = statistics.median(percent)
            if not row["engines"]:
                continue
            rows.append(row)
            say(line(row, [engine.name for engine in engines]))
    for engine in ready:
        engine.close()
    return rows, missing


def summary(rounds, engine, quiet):
    """Medians over the rounds; ratios round by round."""
    medians = [statistics.median(samples) for samples in rounds[engine.name]]
    middle = statistics.median(medians)
    result = {
        "tokens_per_second": middle,
        "mad": statistics.median(abs(x - middle) for x in medians),
        "samples": rounds[engine.name],
        "quiet": quiet,
    }
    ours = rounds.get("doge", [])
    if engine.name != "doge" and len(ours) == len(medians):
        result["doge_is_faster_by"] = statistics.median(statistics.median(a) / b for a, b in zip(ours, medians))
    return result


def head(names):
    peers = [name for name in names if name != "doge"]
    cells = ["model", "dtype", "threads", "test", "depth", *(["doge", "% of roof"] if "doge" in names else [])]
    for name in peers:
        cells += [name, "doge ×"] if "doge" in names else [name]
    return "| " + " | ".join(cells) + " |\n|" + "---|" * len(cells)


def line(row, names):
    cells = [row["model"], row["dtype"], str(row["threads"]), row["test"], str(row["depth"])]
    number = lambda entry: f"{entry['tokens_per_second']:.1f} ± {entry['mad']:.1f}{'' if entry['quiet'] else ' !'}"
    if "doge" in names:
        ours = row["engines"].get("doge")
        cells += [number(ours) if ours else "—", f"{ours['percent_of_roof']:.0f}" if ours and "percent_of_roof" in ours else "~"]
    for name in names:
        if name != "doge":
            entry = row["engines"].get(name)
            cells.append(number(entry) if entry else "—")
            if "doge" in names:
                cells.append(f"{entry['doge_is_faster_by']:.2f}" if entry and "doge_is_faster_by" in entry else "—")
    return "| " + " | ".join(cells) + " |"


def machine():
    try:
        with open("/proc/cpuinfo") as info:
            cpu = next(text.split(":", 1)[1].strip() for text in info if text.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or "unknown"
    return {"cpu": cpu, "cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}


def commit():
    try:
        return run(["git", "-C", REPOSITORY, "rev-parse", "--short=12", "HEAD"]).strip()
    except Missing:
        return None


def main():
    options = arguments()
    engines, absent = [], {}
    for name in options.engines:
        engine = ENGINES[name](options)
        try:
            say(f"setting up {name}")
            engine.set_up()
            engines.append(engine)
        except Missing as why:
            absent[name] = str(why)
            say(f"{name} is missing: {why}")
    names = [engine.name for engine in engines]
    say(head(names))
    rows, missing, versions = [], [], {}
    for size in options.sizes:
        for dtype in options.dtypes:
            measured, gaps = measure(engines, options, size, dtype)
            rows += measured
            missing += [{"engine": name, "model": size, "dtype": dtype, "why": why} for name, why in gaps.items()]
            versions.update({engine.name: engine.versions for engine in engines if engine.versions})
    missing += [{"engine": name, "why": why} for name, why in absent.items()]
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions,
        "rounds": options.rounds,
        "samples_in_a_round": options.samples,
        "keep_window_size": options.keep_window,
        "rows": rows,
        "missing": missing,
    }
    write(options.out, report, names)


def write(folder, report, names):
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"peers-{report['date'][:19].replace(':', '').replace('T', '-')}"
    stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    of = lambda facts: ", ".join(f"{name} {version}" for name, version in facts.items() if version)
    text = [f"{report['machine']['cpu']}, {report['machine']['cpus']} CPUs, {report['date'][:10]}, commit {report['commit']}.", ""]
    text += [f"- {engine}: {of(facts)}" for engine, facts in report["versions"].items()]
    text += ["", f"Tokens per second, median of {report['rounds']} rounds ± MAD; doge ×: the median of the rounds' ratios.", ""]
    text += [head(names), *(line(row, names) for row in report["rows"])]
    if any(not entry["quiet"] for row in report["rows"] for entry in row["engines"].values()):
        text += ["", "!: something else was running all the time."]
    if report["missing"]:
        text += ["", "Missing:", ""]
        text += [f"- {' '.join(gap[key] for key in ('engine', 'model', 'dtype') if key in gap)}: {gap['why']}" for gap in report["missing"]]
    stem.with_suffix(".md").write_text("\n".join(text) + "\n")
    print(stem.with_suffix(".md"))


if __name__ == "__main__":
    main()
