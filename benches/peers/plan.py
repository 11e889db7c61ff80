"""What is measured: groups of rows that share a model, and who is measured on them."""

import dataclasses

KEEP_WINDOW = 2048
MOE = ["20m-moe", "180m-moe", "1.6b-moe"]


@dataclasses.dataclass
class Group:
    section: str
    size: str
    dtype: str
    keep_window: int
    # test ("pp" or "tg"), tokens, depth
    rows: list
    engines: list


def main(options):
    """Every size in every format, from an empty context."""
    rows = [(test, n, 0) for test, n in (("pp", options.prompt), ("tg", options.generate)) if n]
    engines = [name for name in options.engines if name != "doge-f16-kv"]
    for size in options.sizes:
        for dtype in options.dtypes:
            yield Group("main", size, dtype, KEEP_WINDOW, rows, engines)


def long(options):
    """A token deep in a context: where the state is small, and where it is as large as the model has it."""
    rows = [("tg", options.generate or 64, depth) for depth in (512, options.depth)]
    for size, dtype, keep_window, others in (
        ("320m", "bf16", 512, ("transformers", "transformers-compile")),
        ("320m", "int8", 512, ("transformers", "transformers-compile")),
        ("60m", "int8", KEEP_WINDOW, ("llama.cpp",)),
    ):
        engines = [name for name in options.engines if name in ("doge", "doge-f16-kv", *others)]
        yield Group("long", size, dtype, keep_window, rows, engines)


def moe(options):
    """Experts: doge alone, beside the roof of their bytes."""
    rows = [(test, n, 0) for test, n in (("pp", options.prompt), ("tg", options.generate)) if n]
    for size in MOE:
        for dtype in ("bf16", "int8"):
            yield Group("moe", size, dtype, KEEP_WINDOW, rows, [name for name in options.engines if name == "doge"])


SECTIONS = {"main": main, "long": long, "moe": moe}


def groups(options):
    every = [group for section in options.sections for group in SECTIONS[section](options)]
    if options.quick:
        every = [group for group in every if group.section != "moe" or (group.size, group.dtype) == ("20m-moe", "bf16")]
        every = [group for group in every if group.section != "long" or group.size == "60m"]
    return [group for group in every if group.engines]


# About ten minutes on a quiet machine, once everything is set up.
QUICK = {
    "sizes": ["20m", "320m"],
    "dtypes": ["bf16", "int8"],
    "engines": ["doge", "doge-bf16", "transformers", "llama.cpp", "openvino"],
    "rounds": 2,
    "samples": 1,
    "again": 0,
    "generate": 32,
    "depth": 4096,
}
