"""The engines beside which doge is measured, and how each is set up."""

import json
import os
import pathlib
import tarfile

from doge import Doge, DogeBf16, DogeF16Kv, checkpoint
from engine import HERE, Engine, Worker
from environment import Missing, run


class Transformers(Worker):
    """On the very checkpoint. It has no integer weights worth the name, so beside those it runs in bf16, its fastest."""

    name = "transformers"
    runs_as = {"f32": "f32", "bf16": "bf16", "int8": "bf16", "int4": "bf16"}
    flags = ()

    def set_up(self):
        self.own = self.environment("transformers", ["torch", "transformers"])
        self.own.make()

    def open(self, size, dtype, keep_window):
        folder, script = checkpoint(self, size, dtype, keep_window), HERE / "worker_transformers.py"
        self.start([self.own.python, script, folder, dtype, self.options.threads, *self.flags])


class TransformersCompiled(Transformers):
    """A token through torch.compile with a static cache; a prompt as above."""

    name = "transformers-compile"
    flags = ("--compile",)


class LlamaCpp(Engine):
    name = "llama.cpp"
    types = {"f32": "F32", "bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}

    def set_up(self):
        self.own = self.environment("llama.cpp", ["numpy", "gguf", "cmake", "ninja"])
        self.own.make()
        folder = self.work / "llama.cpp"
        self.bin = folder / "build" / "bin"
        if not (folder / "complete").exists():
            self.build(folder)
            (folder / "complete").touch()
        (package,) = folder.glob("llama_cpp_python-*.tar.gz")
        self.versions = {"llama-cpp-python": package.name.removesuffix(".tar.gz").rpartition("-")[2]}

    def build(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        name = "llama-cpp-python"
        if not list(folder.glob("*.tar.gz")):
            download = ["download", "--quiet", "--no-deps", "--no-binary", name, "--dest", folder, name]
            run([self.own.python, "-m", "pip", *download])
        with tarfile.open(next(folder.glob("*.tar.gz"))) as package:
            package.extractall(folder, filter="data")
        source = next(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
        tools = self.own.folder / "bin"
        environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
        flags = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=ON", "-DLLAMA_OPENSSL=OFF"]
        # Where there is AMX, its second thread uses tiles that only the first has configured: SIGILL at 8 and 4 bits (0.3.36).
        without = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
        cpu = pathlib.Path("/proc/cpuinfo")
        if cpu.exists() and "amx_tile" in cpu.read_text():
            flags += [f"-DCMAKE_C_FLAGS={without}", f"-DCMAKE_CXX_FLAGS={without}"]
        nice = ["nice", "-n", "19", tools / "cmake"]
        run([*nice, "-G", "Ninja", "-S", source, "-B", folder / "build", *flags], env=environment)
        run([*nice, "--build", folder / "build", "--target", "llama-bench", "llama-quantize"], env=environment)

    def open(self, size, dtype, keep_window):
        self.models.mkdir(parents=True, exist_ok=True)
        plain, self.file = self.models / f"{size}-F32.gguf", self.models / f"{size}-{self.types[dtype]}.gguf"
        if not plain.exists():
            run([self.own.python, HERE / "make_gguf.py", size, plain])
        if not self.file.exists():
            part = self.file.with_suffix(".part")
            run([self.bin / "llama-quantize", plain, part, self.types[dtype]])
            part.rename(self.file)

    def samples(self, test, tokens, depth, count):
        lengths = ["-p", tokens, "-n", 0] if test == "pp" else ["-p", 0, "-n", tokens]
        where = ["-m", self.file, "-t", self.options.threads, "-d", depth, "-r", count, "-o", "json"]
        (row,) = json.loads(run([self.bin / "llama-bench", *where, *lengths], self.options.limit))
        self.versions["llama.cpp"] = row.get("build_commit")
        return row["samples_ts"]


class OpenVino(Worker):
    name = "openvino"

    def set_up(self):
        self.own = self.environment("openvino", ["openvino", "optimum-intel", "nncf", "torch"])
        self.own.make()

    def open(self, size, dtype, keep_window):
        self.models.mkdir(parents=True, exist_ok=True)
        self.notes = {"head": "last"}  # of a prompt; the first results have it for every token
        folder = self.models / f"openvino-{size}-{dtype}"
        self.start([self.own.python, HERE / "worker_openvino.py", size, folder, dtype, self.options.threads])


ENGINES = {engine.name: engine for engine in (Doge, DogeBf16, DogeF16Kv, Transformers, TransformersCompiled, LlamaCpp, OpenVino)}
