"""The launcher of one machine of several, started from another one. Knows no run: its job comes as JSON on its input.

Started as `python -m flagai.parallel.node`. The first line of its input is the job; a line `stop` asks the processes
to stop, and the end of the input ends them, so that none outlives the connection. Lines of its output that begin
with `MARK` are for the one that started it; all others come from the processes.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict
from typing import Any, Final

from flagai.errors import FlagaiError
from flagai.parallel.endings import Ended
from flagai.parallel.launch import Launch, start
from flagai.parallel.requests import Requests

MARK: Final = "\x1eflagai "
STOP: Final = "stop"


def job(launch: Launch, *, directory: str, environment: dict[str, str]) -> str:
    """The first line of the input."""
    return json.dumps({"launch": asdict(launch), "directory": directory, "environment": environment}) + "\n"


def main() -> int:
    """Do the job; the exit code is 0, or 1 where there was no job."""
    line = sys.stdin.readline()
    if not line:
        return 1
    _say("here", True)
    given = json.loads(line)
    try:
        os.chdir(given["directory"])
        os.environ.update(given["environment"])
        values = given["launch"] | {"command": tuple(given["launch"]["command"])}
        requests = Requests()
        threading.Thread(target=_listen, args=(requests,), daemon=True).start()
        ended = start(Launch(**values), lambda text: _say("say", text), requests)
    except KeyboardInterrupt:
        ended = Ended(kind="stopped", code=1)
    except (FlagaiError, OSError) as error:
        ended = Ended(kind="failed", text=str(error), code=1)
    _say("ended", asdict(ended))
    return 0


def _listen(requests: Requests) -> None:
    for line in sys.stdin:
        if line.strip() == STOP:
            requests.ask()
    requests.insisted = True


def _say(kind: str, value: Any) -> None:
    sys.stdout.write(f"{MARK}{json.dumps({kind: value})}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
