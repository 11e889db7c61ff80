"""doge itself, by its own bench, and the files that others load as well."""

import json
import shutil

from environment import Missing, run
from engine import HERE, Engine
from shapes import SHAPES


def checkpoint(engine, size, dtype, keep_window):
    """A folder with the Doge checkpoint of this size: f32 or bf16, for doge and transformers alike."""
    folder = engine.models / f"{size}-{dtype}-w{keep_window}"
    if not (folder / "config.json").exists():
        tools = engine.environment("files", ["numpy"])
        tools.make()
        run([tools.python, HERE / "make_model.py", size, folder, "--dtype", dtype, "--keep-window", keep_window])
    return folder


class Doge(Engine):
    name = "doge"
    flags = ()

    def set_up(self):
        if not self.options.doge.exists():
            raise Missing(f"{self.options.doge} is not there; cargo build --release")

    def open(self, size, dtype, keep_window):
        if size in SHAPES:
            self.loads = ["-m", self.file(size, dtype, keep_window)]
        else:
            self.loads = ["--preset", size, "--dtype", dtype, "-w", keep_window]

    def file(self, size, dtype, keep_window):
        """A checkpoint that maps straight in."""
        if dtype in ("f32", "bf16"):
            return checkpoint(self, size, dtype, keep_window)
        folder = self.models / f"{size}-{dtype}-w{keep_window}"
        if not (folder / "config.json").exists():
            source = checkpoint(self, size, "f32", keep_window)
            shutil.rmtree(folder, ignore_errors=True)
            run([self.options.doge, "quantize", "-m", source, "--dtype", dtype, "-o", folder])
            if not (folder / "config.json").exists():
                shutil.copy(source / "config.json", folder)
        return folder

    def samples(self, test, tokens, depth, count):
        lengths = ["-p", tokens, "-n", 0] if test == "pp" else ["-p", 0, "-n", tokens]
        how = ["-t", self.options.threads, "-d", depth, "-r", count, *self.flags, "-o", "json", "-q"]
        (row,) = json.loads(run([self.options.doge, "bench", *self.loads, *lengths, *how], self.options.limit))
        self.versions = {"doge": row["version"], "commit": row["commit"]}
        self.notes = {key: row[key] for key in ("isa", "activations", "kv_dtype", "instruction", "bytes_per_token")}
        # The roof was measured in the same breath.
        self.paired = {"percent_of_roof": row["percent_of_roof"], "roof": row["roof"], "peak_rss_bytes": row["peak_rss_bytes"]}
        return row["tokens_per_second"]["samples"]


class DogeBf16(Doge):
    """With K and V in bf16, and what meets them or bf16 weights rounded to bf16, as the other engines have it."""

    name = "doge-bf16"
    runs_as = {"bf16": "bf16", "int8": "int8", "int4": "int4"}
    flags = ("--activations", "bf16", "--kv-dtype", "bf16")


class DogeF16Kv(Doge):
    """With K and V in 16 bits, as the other engines have them, far into a context."""

    name = "doge-f16-kv"
    flags = ("--kv-dtype", "f16")
