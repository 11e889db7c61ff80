"""What an engine is asked, in this order: `set_up()` once, then for each size and format `open(size, dtype, keep_window)`,
any number of `samples(test, tokens, depth, count)`, `close()`. Whatever cannot be done raises Missing with the reason.
"""

import json
import pathlib
import select
import subprocess

from environment import Environment, Missing

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent


class Engine:
    name = ""
    # doge's word for a format: the one that this engine runs beside it.
    runs_as = {"f32": "f32", "bf16": "bf16", "int8": "int8", "int4": "int4"}

    def __init__(self, options):
        self.options, self.work, self.models = options, options.work, options.work / "models"
        self.versions = {}
        # About the last samples: what the row should tell, and what was measured together with them.
        self.notes, self.paired = {}, {}

    def environment(self, name, packages):
        return Environment(self.work, name, packages, self.options.venv.get(name, self.options.venv.get("")))

    def set_up(self):
        pass

    def close(self):
        pass

    def pids(self):
        return []


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
        """The next line; a worker writes nothing but one line for each request, so none is left in a buffer."""
        ready, _, _ = select.select([self.process.stdout], [], [], self.options.limit)
        if not ready:
            self.process.kill()
            raise Missing(f"no answer in {self.options.limit} s")
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
            try:
                print(json.dumps({"test": test, "tokens": asked, "depth": depth}), file=self.process.stdin, flush=True)
            except OSError as error:
                raise Missing(f"ended: {error}") from error
            rates.append(self.answer()["tokens_per_second"])
        return rates[1:]

    def pids(self):
        return [self.process.pid] if self.process else []

    def close(self):
        if self.process:
            try:
                self.process.stdin.close()
                self.process.wait(10)
            except (OSError, subprocess.TimeoutExpired):
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()
            self.log.close()
            self.process = None
