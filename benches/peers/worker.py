"""What the workers of the Python engines share: they load once, then answer one JSON request a line.

Request: {"test": "pp" | "tg", "tokens": N, "depth": D}. Answer: {"tokens_per_second": X}, or {"error": why}.
The first line a worker writes is {"versions": {...}}.
"""

import importlib.metadata
import json
import sys
import traceback


def serve(packages, measure):
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not get between the answers

    def say(thing):
        print(json.dumps(thing), file=answers, flush=True)

    say({"versions": {name: importlib.metadata.version(name) for name in packages}})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            say({"tokens_per_second": measure(request["test"], request["tokens"], request["depth"])})
        except Exception as error:
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"})
