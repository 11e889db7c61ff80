#!/usr/bin/env python3
"""The results as a Markdown file beside their JSON, and the README's table.

Usage: report.py RESULT.json [--readme FILE]        writes RESULT.md anew, and the table between the marks of FILE
"""

import argparse
import itertools
import json
import pathlib
import re

OURS = ["doge", "doge-bf16", "doge-f16-kv"]
PEERS = ["llama.cpp", "openvino", "transformers", "transformers-compile"]
BEGIN, END = "<!-- benches/peers/run.py writes this table -->", "<!-- end of the table -->"


def path(folder, result):
    """Where a new result goes: beside what the same CPU has of the same day, not over it."""
    cpu = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(r\)|\(tm\)|cpu|processor", "", result["machine"]["cpu"].lower())).strip("-")
    names = (f"{result['date'][:10]}-{cpu}{more}.json" for more in itertools.chain([""], (f"-{n}" for n in itertools.count(2))))
    return next(folder / name for name in names if not (folder / name).exists())


def rate(x):
    return f"{x:.2f}" if x < 100 else f"{x:.1f}" if x < 1000 else f"{x:.0f}"


def cell(entry, rounds=None):
    turns = len(entry["turns"])
    taken = "" if rounds in (None, turns) else f" ({turns} turn{'s' if turns > 1 else ''})"
    return f"{rate(entry['tokens_per_second'])} ± {rate(entry['mad'])}{taken}{'' if entry['quiet'] else ' !'}"


def kv_dtype(entry):
    """The first results do not name it: there was one."""
    return entry.get("kv_dtype", "f32")


def share(entry):
    return f"{entry['percent_of_roof']:.0f} %" if entry and "percent_of_roof" in entry else "~"


def times(row, name, ours="doge"):
    """By how much doge is faster, and in which format the other one ran if not in the same."""
    entry = row["engines"].get(name, {})
    if ours not in entry.get("slower_than", {}):
        return "—"
    other = "" if entry["runs_as"] == row["dtype"] else f" ({entry['runs_as']})"
    return f"{entry['slower_than'][ours]:.2f}{other}"


def line(row):
    """A row for whoever watches."""
    rates = ", ".join(f"{name} {cell(entry)}" for name, entry in row["engines"].items())
    return f"  {row['test']} at depth {row['depth']}: {rates or 'nobody'}"


def table(head, lines):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(cells) + " |" for cells in lines)]


def section(rows, rounds):
    """Every row with every engine that is in one of them."""
    names = [name for name in [*OURS, *PEERS] if any(name in row["engines"] for row in rows)]
    ours = [name for name in names if name in OURS]
    head, lines = ["model", "weights", "keep window", "test", "depth"], []
    for name in names:
        head += [name, *(f"{mine} ×" for mine in ours)] if name in PEERS else [name, "of roof"]
    for row in rows:
        cells = [row["model"], row["dtype"], str(row["keep_window_size"]), row["test"], str(row["depth"])]
        for name in names:
            entry = row["engines"].get(name)
            cells.append(cell(entry, rounds) if entry else "—")
            cells += [times(row, name, mine) for mine in ours] if name in PEERS else [share(entry) if entry else "—"]
        lines.append(cells)
    return table(head, lines)


def about(result):
    machine = result["machine"]
    commit = result["versions"].get("doge", {}).get("commit") or result["commit"]  # the binary may be older than the checkout
    threads = {row["threads"] for row in result["rows"]}
    return (f"{machine['cpu']}, {machine['cpus']} CPUs, {'/'.join(map(str, sorted(threads)))} threads, "
            f"{result['date'][:10]}, commit {commit}")


def stand_ins(result):
    """What the others ran in the place of a Doge, if one of them has none: one line."""
    names = {name for row in result["rows"] for name in row["engines"]}
    without = [name for name in ("llama.cpp", "openvino") if name in names]
    if not without:
        return []
    others = [name for name in PEERS if name in names and name not in without]
    text = (f"There is no Doge for {' and '.join(without)}: a Qwen3 of the same shape with random weights ran there. It has no "
            "dynamic mask and no gated residuals, so slightly less work a token, and its attention reads every token before, not "
            "only the keys of doge's keep window.")
    if any(row["engines"]["openvino"].get("head") != "last" for row in prompts(result, "openvino")):
        text += (" Of prompts openvino computed the head for every token, the others for the last one alone: with 512 tokens 1.1 "
                 "(320M), 1.2 (160M), 1.45 (60M) and 2.8 (20M) times the work of the matrices.")
    return ["", text + (f" {' and '.join(others)} ran the Doge checkpoint itself." if others else "")]


def prompts(result, name):
    return [row for row in result["rows"] if row["test"].startswith("pp") and name in row["engines"]]


def markdown(result):
    of = lambda facts: ", ".join(f"{name} {version}" for name, version in facts.items() if version)
    text = [about(result) + ".", ""]
    text += [f"- {engine}: {of(facts)}" for engine, facts in result["versions"].items()]
    text += ["", f"Tokens per second: median of {result['rounds']} rounds of {result['samples_in_a_round']} ± MAD. doge ×: how "
             "many times as fast as the engine on its left, the median of the rounds' ratios; in brackets the format in which the "
             "other one ran. Of roof: of what doge's own probe of this machine measured just before and after; ~ where the "
             "machine's speed changed in between."]
    text += stand_ins(result)
    for name in dict.fromkeys(row["section"] for row in result["rows"]):
        text += ["", f"## {name}", "", *section([row for row in result["rows"] if row["section"] == name], result["rounds"])]
    entries = [entry for row in result["rows"] for entry in row["engines"].values()]
    if not all(entry["quiet"] for entry in entries):
        text += ["", "!: something else was running all the time."]
    ours = [(row["dtype"], entry) for row in result["rows"] for entry in row["engines"].values() if "isa" in entry]
    ran = {(dtype, entry["activations"], kv_dtype(entry), entry["isa"], entry["instruction"]) for dtype, entry in ours}
    text += ["", "What doge ran with:", "", *table(["weights", "input", "K and V", "isa", "instruction"], sorted(ran))]
    if result["missing"]:
        text += ["", "Missing:", ""]
        where = lambda gap: " ".join(gap[key] for key in ("engine", "model", "dtype") if key in gap)
        text += [f"- {where(gap)}: {gap['why']}" for gap in result["missing"]]
    return "\n".join(text) + "\n"


def summary(result):
    """The README's table: one line a model, format of the weights and form of their input."""
    rows, lines = {}, []
    for row in result["rows"]:
        for ours in ("doge", "doge-bf16"):
            if row["section"] == "main" and ours in row["engines"]:
                entry = row["engines"][ours]
                form = entry["activations"] + ("" if kv_dtype(entry) == "f32" else f", {kv_dtype(entry)} K and V")
                rows.setdefault((row["model"], f"{row['dtype']} × {form}", ours), {})[row["test"][:2]] = row
    peers = [name for name in PEERS if any(name in row["engines"] for both in rows.values() for row in both.values())]
    for (model, formats, ours_name), both in rows.items():
        cells = [model, formats]
        for test in ("tg", "pp"):
            row = both.get(test)
            ours = row["engines"][ours_name] if row else None
            cells += [rate(ours["tokens_per_second"]), share(ours)] if ours else ["—", "—"]
            cells += [times(row, name, ours_name) if row else "—" for name in peers]
        lines.append(cells)
    head = ["", "weights × input"]
    for test in ("decode", "prefill"):
        head += [f"{test}, tok/s", "of roof", *(f"× {name}" for name in peers)]
    return table(head, lines)


def write(json_path, result):
    """Both files, each whole or not at all."""
    json_path.parent.mkdir(parents=True, exist_ok=True)
    for file, text in ((json_path, json.dumps(result, indent=1) + "\n"), (json_path.with_suffix(".md"), markdown(result))):
        part = file.with_name(file.name + ".part")
        part.write_text(text)
        part.replace(file)


def readme(file, json_path, result):
    text = file.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{file} has no place for the table: a line {BEGIN} and a line {END}")
    results = f"[{json_path.stem}](benches/results/{json_path.stem}.md)"
    middle = "\n".join([*summary(result), "", f"{about(result)}. All of it: {results}."])
    file.write_text(f"{before}{begin}\n{middle}\n{end}{after}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=pathlib.Path)
    parser.add_argument("--readme", type=pathlib.Path)
    options = parser.parse_args()
    stored = json.loads(options.result.read_text())
    write(options.result, stored)
    if options.readme:
        readme(options.readme, options.result, stored)
