#!/usr/bin/env python3
"""Measures doge beside transformers, llama.cpp and OpenVINO: the same shapes, the same threads, turn by turn.

Only the standard library is needed to start: each engine gets a Python environment of its own from PyPI, under
target/peers, where the models are made, too. An engine that cannot be set up, or has no such format, is listed with the
reason. In every round each engine has its turn, in rotating order; ratios are taken within a round, so that a machine
that drifts drifts for all. A turn during which others used more than --quiet of the CPUs, or whose samples differ by more than
a factor of two, is taken again, at most --again times, and marked ! if it was never quiet.

transformers loads the very checkpoint that doge loads. llama.cpp and OpenVINO have no Doge: they run a Qwen3 of the same
shape, which has neither the dynamic mask nor the gated residuals, so slightly less to do. Of a prompt each computes the head for
the last token alone.

Sections: main, every size and format; long, a token deep in a context; moe, experts.

Writes benches/results/<date>-<cpu>.json and .md, after every row what there is by then; a second run of a day writes <cpu>-2.
Where --readme is given, the table of the README as well.
"""

import argparse
import datetime
import os
import pathlib
import platform
import statistics
import sys

import plan
import report
from engine import REPOSITORY
from engines import ENGINES
from environment import Missing, run
from quiet import Watch
from shapes import SHAPES


def arguments():
    words = lambda text: [word for word in text.split(",") if word]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--sections", type=words, default=list(plan.SECTIONS), help=", ".join(plan.SECTIONS))
    parser.add_argument("--engines", type=words, default=list(ENGINES), help=", ".join(ENGINES))
    parser.add_argument("--sizes", type=words, default=list(SHAPES), help="of main: " + ", ".join(SHAPES))
    parser.add_argument("--dtypes", type=words, default=["f32", "bf16", "int8", "int4"], help="of main, in doge's words")
    parser.add_argument("--quick", action="store_true", help="some ten minutes once all is set up: other defaults, fewer rows")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2, help="of each engine in a round")
    parser.add_argument("--prompt", type=int, default=512, help="tokens; 0: no such test")
    parser.add_argument("--generate", type=int, default=64, help="tokens; 0: no such test")
    parser.add_argument("--depth", type=int, default=8192, help="of long")
    parser.add_argument("--quiet", type=float, default=0.05, help="share of all CPUs that others may use")
    parser.add_argument("--again", type=int, default=2)
    parser.add_argument("--limit", type=float, default=600, help="seconds for a turn")
    parser.add_argument("--venv", action="append", default=[], metavar="[ENGINE=]PATH", help="an environment to use as it is")
    parser.add_argument("--doge", type=pathlib.Path, default=REPOSITORY / "target" / "release" / "doge")
    parser.add_argument("--work", type=pathlib.Path, default=REPOSITORY / "target" / "peers", help="environments and models")
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "benches" / "results")
    parser.add_argument("--readme", action="store_true", help="put the table into the README")
    parser.add_argument("--set-up", action="store_true", help="only make the environments")
    if "--quick" in sys.argv:
        parser.set_defaults(**plan.QUICK)
    options = parser.parse_args()
    for known, asked in ((ENGINES, options.engines), (SHAPES, options.sizes), (plan.SECTIONS, options.sections)):
        for word in asked:
            if word not in known:
                parser.error(f"unknown: {word}; known are {', '.join(known)}")
    pairs = [venv.split("=", 1) if "=" in venv else ["", venv] for venv in options.venv]
    options.venv = {engine: str(pathlib.Path(path).absolute()) for engine, path in pairs}
    options.doge, options.work = options.doge.absolute(), options.work.absolute()
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def say(text):
    print(text, file=sys.stderr, flush=True)


# Samples of a turn that differ by more than this factor: one of them stood still, which no share of the CPUs tells.
STALLED = 2


def take(engine, options, row):
    """One turn: of those taken the quietest, of those without a stalled sample if there are such."""
    taken = []
    for _ in range(options.again + 1):
        watch = Watch(engine.pids())
        samples = engine.samples(*row, options.samples)
        foreign, stalled = watch.foreign() or 0.0, max(samples) > STALLED * min(samples)
        taken.append((stalled, foreign, {"samples": samples, "foreign": foreign, **engine.paired}))
        if foreign <= options.quiet and not stalled:
            break
    return min(taken, key=lambda turn: turn[:2])[2]


def measure(ready, missing, options, group, row):
    """One row, in rounds; whoever fails in one of them is missing from it."""
    turns = {engine.name: [] for engine in ready}
    for turn in range(options.rounds):
        first = turn % len(ready)
        for engine in ready[first:] + ready[:first]:
            if engine.name not in missing:
                try:
                    turns[engine.name].append(take(engine, options, row))
                except (Missing, OSError, ValueError) as why:
                    missing[engine.name] = f"{row[0]}{row[1]} at depth {row[2]}: {why}"
    entries = {}
    for engine in ready:
        if engine.name not in missing:
            entries[engine.name] = summary(turns, engine, group, options)
    test, tokens, depth = row
    return {"section": group.section, "model": group.size, "dtype": group.dtype, "keep_window_size": group.keep_window,
            "threads": options.threads, "test": f"{test}{tokens}", "depth": depth, "engines": entries}


def summary(turns, engine, group, options):
    """Medians over the rounds; ratios round by round."""
    medians = lambda name: [statistics.median(turn["samples"]) for turn in turns[name]]
    mine = medians(engine.name)
    middle = statistics.median(mine)
    result = {
        "tokens_per_second": middle,
        "mad": statistics.median(abs(rate - middle) for rate in mine),
        "runs_as": engine.runs_as.get(group.dtype),
        "quiet": all(turn["foreign"] <= options.quiet for turn in turns[engine.name]),
        "turns": turns[engine.name],
        **engine.notes,
    }
    # A turn in which the roof itself moved tells no share of it.
    steady = [turn["percent_of_roof"] for turn in turns[engine.name] if turn.get("roof", {}).get("steady")]
    if steady:
        result["percent_of_roof"] = statistics.median(steady)
    result["slower_than"] = {}
    for name in report.OURS:
        ours = medians(name) if name in turns and name != engine.name else []
        if len(ours) == len(mine):
            result["slower_than"][name] = statistics.median(a / b for a, b in zip(ours, mine))
    return result


def open_all(engines, group):
    """Those that have this model in this format, and why the others have not."""
    ready, missing = [], {}
    for engine in engines:
        try:
            engine.open(group.size, engine.runs_as[group.dtype], group.keep_window)
            ready.append(engine)
        except (Missing, OSError, ValueError) as why:
            engine.close()
            missing[engine.name] = str(why)
    return ready, missing


def machine():
    try:
        with open("/proc/cpuinfo") as info:
            cpu = next(text.split(":", 1)[1].strip() for text in info if text.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or "unknown"
    kernel = platform.release().partition("-")[0]  # what follows names a build, which tells a reader nothing
    return {"cpu": cpu, "cpus": os.cpu_count(), "kernel": kernel, "python": platform.python_version()}


def set_up(options, missing):
    engines = []
    for name in options.engines:
        engine = ENGINES[name](options)
        try:
            say(f"setting up {name}")
            engine.set_up()
            engines.append(engine)
        except (Missing, OSError) as why:
            missing.append({"engine": name, "why": str(why)})
            say(f"{name} is missing: {why}")
    return engines


def main():
    options, missing = arguments(), []
    engines = set_up(options, missing)
    if options.set_up:
        sys.exit(1 if missing else 0)
    try:
        commit = run(["git", "-C", REPOSITORY, "rev-parse", "--short=12", "HEAD"]).strip()
    except Missing:
        commit = None
    result = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "machine": machine(),
        "versions": {},
        "rounds": options.rounds,
        "samples_in_a_round": options.samples,
        "options": {"quiet": options.quiet},
        "rows": [],
        "missing": missing,
    }
    path = report.path(options.out, result)
    for group in plan.groups(options):
        say(f"{group.section}: {group.size} {group.dtype}")
        asked = [engine for engine in engines if engine.name in group.engines and group.dtype in engine.runs_as]
        ready, gaps = open_all(asked, group)
        for row in group.rows:
            here = [engine for engine in ready if engine.name not in gaps]
            if here:
                result["rows"].append(measure(here, gaps, options, group, row))
                result["versions"].update({engine.name: dict(engine.versions) for engine in here})
                say(report.line(result["rows"][-1]))
                report.write(path, result)
        for engine in ready:
            engine.close()
        for name, why in gaps.items():
            missing.append({"engine": name, "model": group.size, "dtype": group.dtype, "why": why})
            say(f"  {name} is missing: {why}")
    report.write(path, result)
    print(path)
    if options.readme:
        report.readme(REPOSITORY / "README.md", path, result)


if __name__ == "__main__":
    main()
