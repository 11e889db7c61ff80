"""What the workers of the Python engines share: they load once, then answer one JSON request a line.

Request: {"test": "pp" | "tg", "tokens": N, "depth": D}. Answer: {"tokens_per_second": X}, or {"error": why}.
The first line a worker writes is {"versions": {...}}.
"""

import importlib.metadata
import json
import os
import sys
import traceback

# What libraries print, from whatever language, must not get between the answers: import this first.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def serve(packages, measure):
    def say(thing):
        print(json.dumps(thing), file=ANSWERS, flush=True)

    say({"versions": {name: importlib.metadata.version(name) for name in packages}})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            say({"tokens_per_second": measure(request["test"], request["tokens"], request["depth"])})
        except Exception as error:
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"})
