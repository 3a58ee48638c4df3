"""What the processes of a test do: `python world_script.py <mode> <folder>`; results go to <folder>/<rank>.json."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from flagai.errors import DataError, WorldError
from flagai.parallel import worker, world


def every_verb() -> dict:
    """What each function of the world answers here."""
    rank = world.rank()
    found = {
        "size": world.size(),
        "first": world.is_first(),
        "from_first": world.from_first({"rank": rank, "text": "你好", "pair": (1, None)}),
        "nothing": world.from_first(""),
        "any_one": world.any_of(rank == 1),
        "any_none": world.any_of(False),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    world.raise_together(None)
    for name, failing in (("first_fails", {0}), ("both_fail", {0, 1})):
        try:
            world.raise_together(DataError(f"seen by {rank}") if rank in failing else None)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    found |= {"late": late(rank), "left": []}
    for failing in (1, 0):  # the first word stays
        if rank == failing:
            world.leave(DataError(f"left by {rank}"))
        world.barrier(f"rank {failing} has left word")
        found["left"].append(str(world.left()))
    return found


def late(rank: int) -> str:
    """Rank 1 stays behind at an evaluation while the other one waits to save."""
    text = ""
    if rank == 1:
        world.note("evaluation at step 20")
    world.barrier("both know")
    if rank == 1:
        world.note("evaluation at step 40")
    world.any_of(False)
    if rank == 0:
        try:
            world.barrier("save step 40", timeout=0.2)
        except WorldError as error:
            text = str(error)
    world.barrier("both know")  # a second visit of the same name
    return text


def until_stopped() -> None:
    """Works until any process was asked to stop."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    (FOLDER / f"working-{world.rank()}").touch()
    while not world.any_of(bool(asked)):
        time.sleep(0.05)
    worker.stopped("the same command continues")


def work(mode: str) -> None:
    world.open_world(torch.device("cpu"))
    rank, again = world.rank(), worker.attempt()
    world.barrier("all are here")
    (FOLDER / f"began-{again}-{rank}").write_text(str(os.getpid()))
    if mode == "verbs":
        (FOLDER / f"{rank}.json").write_text(json.dumps(every_verb()))
    elif mode == "killed-then-error" and rank == 1 and again:
        time.sleep(0.2)  # the other one waits for this one by then
        raise DataError("the cause", where="train.jsonl:3")
    elif mode in ("killed-once", "killed-then-error") and rank == 1 and not again:
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "exit" and rank == 1:
        sys.stderr.write("oh dear\n")
        sys.stderr.flush()
        os._exit(3)
    elif mode == "stop":
        return until_stopped()
    world.any_of(False)
    world.close()


if __name__ == "__main__":
    worker.begin()
    FOLDER = Path(sys.argv[2])
    try:
        work(sys.argv[1])
    except Exception as error:
        worker.report(error, places=world.last_seen())
        os._exit(1)
