"""The engines: how each is set up, and how one sample of it is taken.

An engine is asked in this order: `set_up()` once, then for each size and format `open(size, dtype)`, any number of
`samples(test, tokens, depth, count)`, `close()`. Whatever cannot be done raises Missing with the reason.
"""

import json
import os
import pathlib
import subprocess
import sys
import tarfile

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent


class Missing(Exception):
    """This engine, or this format of it, cannot be measured here."""


def run(command, **options):
    """A command's stdout; Missing with the line of its stderr that tells why, if it fails."""
    command = [str(part) for part in command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, **options)
    except OSError as error:
        raise Missing(f"{command[0]}: {error}") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        why = next((line for line in lines if line.lower().startswith("error")), lines[-1])
        raise Missing(f"{' '.join(command[:2])} …: exit code {done.returncode}: {why}")
    return done.stdout


class Environment:
    """A Python environment of its own under `work`, or one that is there already and stays as it is."""

    def __init__(self, work, name, packages, given):
        self.folder = pathlib.Path(given) if given else work / f"venv-{name}"
        self.given, self.packages = bool(given), packages

    @property
    def python(self):
        return self.folder / "bin" / "python"

    def make(self):
        if self.given:
            wanted = [name.replace("-", "_") for name in self.packages]
            run([self.python, "-c", "import importlib.metadata as m, sys; [m.version(p) for p in sys.argv[1:]]", *wanted])
            return
        if not self.python.exists():
            run([sys.executable, "-m", "venv", self.folder])
        run([self.python, "-m", "pip", "install", "--quiet", *self.packages])


class Engine:
    name = ""
    dtypes = ()

    def __init__(self, options):
        self.options, self.work, self.versions = options, options.work, {}

    def environment(self, name, packages):
        return Environment(self.work, name, packages, self.options.venv.get(name, self.options.venv.get("")))

    def set_up(self):
        pass

    def close(self):
        pass

    def pids(self):
        return []

    def model(self, size):
        """The Doge checkpoint that doge and transformers both load."""
        folder = self.work / "models" / f"{size}-w{self.options.keep_window}"
        if not (folder / "config.json").exists():
            tools = self.environment("files", ["numpy", "safetensors"])
            tools.make()
            run([tools.python, HERE / "make_model.py", size, folder, self.options.keep_window])
        return folder


class Doge(Engine):
    name = "doge"
    flags = ()

    def set_up(self):
        if not self.options.doge.exists():
            raise Missing(f"{self.options.doge} is not there; cargo build --release")

    def open(self, size, dtype):
        self.loads = ["-m", self.model(size), "--dtype", dtype, "-t", self.options.threads]
        self.percent = {}

    def samples(self, test, tokens, depth, count):
        lengths = ["-p", tokens, "-n", 0] if test == "pp" else ["-p", 0, "-n", tokens]
        how = ["-d", depth, "-r", count, *self.flags, "-o", "json", "-q"]
        command = [self.options.doge, "bench", *self.loads, *lengths, *how]
        (row,) = json.loads(run(command))
        self.versions = {"doge": row["version"], "commit": row["commit"], "isa": row["isa"]}
        # The roof was measured in the same breath; a row in which it moved has none.
        if row["roof"]["steady"]:
            self.percent.setdefault((test, tokens, depth), []).append(row["percent_of_roof"])
        return row["tokens_per_second"]["samples"]


class DogeBf16(Doge):
    """With activations rounded to bf16 where they meet bf16 weights, as the other engines have it."""

    name = "doge-bf16"
    dtypes = ("bf16",)
    flags = ("--activations", "bf16")


class Worker(Engine):
    """An engine in Python: a process that stays, so that it loads once."""

    process = None

    def start(self, command):
        self.log = open(self.work / f"{self.name}.log", "w")
        command = [str(part) for part in command]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.log, text=True, bufsize=1)
        self.versions = self.answer()["versions"]

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            lines = pathlib.Path(self.log.name).read_text().strip().splitlines()
            raise Missing(lines[-1] if lines else f"ended with code {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Missing(answer["error"])
        return answer

    def samples(self, test, tokens, depth, count):
        rates = []
        # The first one, of a few tokens, warms up.
        for warm_up in [True] + [False] * count:
            asked = min(tokens, 16) if warm_up and test == "tg" else tokens
            print(json.dumps({"test": test, "tokens": asked, "depth": depth}), file=self.process.stdin, flush=True)
            rates.append(self.answer()["tokens_per_second"])
        return rates[1:]

    def pids(self):
        return [self.process.pid] if self.process else []

    def close(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait()
            self.log.close()
            self.process = None


class Transformers(Worker):
    name = "transformers"
    dtypes = ("f32", "bf16")
    flags = ()

    def set_up(self):
        self.own = self.environment("transformers", ["torch", "transformers"])
        self.own.make()

    def open(self, size, dtype):
        script = HERE / "worker_transformers.py"
        self.start([self.own.python, script, self.model(size), dtype, self.options.threads, *self.flags])


class TransformersCompiled(Transformers):
    name = "transformers-compile"
    flags = ("--compile",)


class LlamaCpp(Engine):
    name = "llama.cpp"
    types = {"f32": "F32", "bf16": "BF16", "f16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
    dtypes = tuple(types)

    def set_up(self):
        self.own = self.environment("llama.cpp", ["numpy", "gguf", "cmake", "ninja"])
        self.own.make()
        self.bin = self.work / "llama.cpp" / "build" / "bin"
        if not all((self.bin / tool).exists() for tool in ("llama-bench", "llama-quantize")):
            self.build(self.work / "llama.cpp")
        found = sorted((self.work / "llama.cpp").glob("llama_cpp_python-*"))
        self.versions = {"llama-cpp-python": found[-1].name.rpartition("-")[2] if found else None}

    def build(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        pip = [self.own.python, "-m", "pip", "download", "--quiet", "--no-deps"]
        if not list(folder.glob("*.tar.gz")):
            run([*pip, "--no-binary", "llama-cpp-python", "--dest", folder, "llama-cpp-python"])
        with tarfile.open(next(folder.glob("*.tar.gz"))) as package:
            package.extractall(folder, filter="data")
        source = next(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
        tools = self.own.folder / "bin"
        path = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
        flags = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF"]
        run([tools / "cmake", "-G", "Ninja", "-S", source, "-B", folder / "build", *flags], env=path)
        run([tools / "cmake", "--build", folder / "build", "--target", "llama-bench", "llama-quantize"], env=path)

    def open(self, size, dtype):
        models = self.work / "models"
        models.mkdir(parents=True, exist_ok=True)
        plain, self.file = models / f"{size}-F32.gguf", models / f"{size}-{self.types[dtype]}.gguf"
        if not plain.exists():
            run([self.own.python, HERE / "make_gguf.py", size, plain])
        if not self.file.exists():
            run([self.bin / "llama-quantize", plain, self.file, self.types[dtype]])

    def samples(self, test, tokens, depth, count):
        lengths = ["-p", tokens, "-n", 0] if test == "pp" else ["-p", 0, "-n", tokens]
        where = ["-m", self.file, "-t", self.options.threads, "-d", depth, "-r", count, "-o", "json"]
        (row,) = json.loads(run([self.bin / "llama-bench", *where, *lengths]))
        self.versions["llama.cpp"] = row.get("build_commit")
        return row["samples_ts"]


class OpenVino(Worker):
    name = "openvino"
    dtypes = ("f32", "bf16", "int8", "int4")

    def set_up(self):
        self.own = self.environment("openvino", ["openvino", "optimum-intel", "nncf", "torch"])
        self.own.make()

    def open(self, size, dtype):
        folder = self.work / "models" / f"openvino-{size}-{dtype}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.start([self.own.python, HERE / "worker_openvino.py", size, folder, dtype, self.options.threads])


ENGINES = {engine.name: engine for engine in (Doge, DogeBf16, Transformers, TransformersCompiled, LlamaCpp, OpenVino)}
