"""Real steps in processes of their own: how much memory and time they took. Knows no plan.

A peak belongs to a process for ever, and what was built before would count; so each measurement gets new processes,
which are asked at the end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from flagai.errors import FlagaiError
from flagai.parallel.launch import Launch, start

_PATIENCE: Final = 3600.0
"""seconds that the steps may take"""


def measure(config: Mapping[str, Any], processes: int, *, offline: bool) -> list[dict[str, float]]:
    """What each process saw: `peak`, and `before` the model, in bytes; `heaviest` and `typical` in seconds.

    Args:
        config: a whole RunConfig as a mapping.

    Raises:
        FlagaiError: the processes ended with an error.
    """
    with tempfile.TemporaryDirectory(prefix="flagai-plan-") as name:
        place = Path(name)
        (place / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
        command = (sys.executable, "-m", "flagai.planning.steps", name, "offline" if offline else "online")
        if processes == 1:
            problem = _alone(command)
        else:
            ended = start(Launch(command=command, processes=processes), lambda _: None)
            problem = "" if ended.kind == "done" else ended.text or "a process ended with an error"
        found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(place.glob("rank-*.json"))]
    if problem or len(found) != processes:
        raise FlagaiError(problem or "a process said nothing", fix="plan without measuring: --no-measure")
    return found


def _alone(command: tuple[str, ...]) -> str:
    """Run one process; gives its last words where it failed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the steps took more than {_PATIENCE:.0f} seconds"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
