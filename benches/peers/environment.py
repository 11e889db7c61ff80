"""What every engine is set up with: commands that say why they failed, and Python environments from PyPI."""

import pathlib
import signal
import subprocess
import sys


class Missing(Exception):
    """This engine, or this format of it, cannot be measured here."""


def run(command, seconds=None, **options):
    """A command's stdout; Missing with the line of its stderr that tells why, if it fails or takes too long."""
    command = [str(part) for part in command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, **options)
    except OSError as error:
        raise Missing(f"{command[0]}: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise Missing(f"{' '.join(command[:2])} …: not done after {seconds} s") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        why = next((line for line in lines if line.lower().startswith("error")), lines[-1])
        code = done.returncode
        how = f"exit code {code}" if code > 0 else signal.strsignal(-code)
        raise Missing(f"{' '.join(command[:2])} …: {how}: {why}")
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
        done = self.folder / "complete"
        if not done.exists():
            run([sys.executable, "-m", "venv", self.folder])
            run([self.python, "-m", "pip", "install", "--quiet", *self.packages])
            done.touch()
