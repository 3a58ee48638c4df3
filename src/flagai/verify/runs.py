"""A user's own run, started as the user starts it, killed and continued by the same command. Knows no strategy."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flagai.config import RunConfig
from flagai.verify.page import Table
from flagai.verify.processes import Command, ended_together
from flagai.verify.resume import ResumeProof, prove, random_moments, undisturbed
from flagai.verify.watch import During

_FLAGAI: Final = ("-P", "-m", "flagai")
_SAVES: Final = 8
_EVALUATIONS: Final = 4
_MOST: Final = 10
"""differences that are listed"""
ALONE, KILLED = "undisturbed", "killed"


def shrunk(config: RunConfig, steps: int | None) -> RunConfig:
    """The run with a line of log for each step; with `steps` it is over then, and saves and evaluates on the way."""
    changes: dict[str, object] = {"logging_steps": 1, "resume": "auto"}
    if steps is not None:
        save, evaluate = (max(1, steps // often) for often in (_SAVES, _EVALUATIONS))
        changes |= {"max_steps": steps, "save_steps": save, "eval_steps": evaluate}
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def verify_resume(
    config: RunConfig,
    folder: Path,
    *,
    kills: int = 5,
    seed: int = 0,
    during: During = "anywhere",
    steps: int | None = None,
    offline: bool = False,
    keep: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> ResumeProof:
    """Run a configuration once left alone and once killed at random moments, and compare the two.

    Args:
        folder: scratch for both runs, which are deleted afterwards, and for what they wrote to the terminal.
        kills: how often SIGKILL is sent to all processes of the run.
        seed: of the moments.
        during: "saves": only while a checkpoint or a model is being written.
        steps: train so many instead of all, with saves and evaluations between.
        keep: leave the two runs where they are.

    Raises:
        FlagaiError: the run fails by itself, or never saves while it runs and `during` is "saves".
    """
    folder.mkdir(parents=True, exist_ok=True)
    _discard(folder)
    file = folder / "run.yaml"
    file.write_text(shrunk(config, steps).to_yaml(), encoding="utf-8")
    options = ["--offline"] if offline else []

    def start(root: Path) -> Command:
        command = [sys.executable, *_FLAGAI, "train", str(file), f"output={root}", *options]
        return Command(command, log=folder / f"{root.name}.log")

    with ended_together():
        expected = undisturbed(start, folder / ALONE)
        tell(f"undisturbed: {len(expected.rows)} lines of log in {expected.seconds:.0f} s")
        found = prove(start, expected, folder / KILLED, random_moments(expected, kills, seed, during), tell)
    if not keep:
        _discard(folder)
    return found


def table(proof: ResumeProof, title: str) -> Table:
    """The kills one by one, and what came of them."""
    heads = ("kill", "after step", "while writing", "continues from", "lines compared")
    rows = [
        (str(i), str(kill.step), kill.during or "-", _continues(kill.checkpoint), str(kill.lines))
        for i, kill in enumerate(proof.kills, 1)
    ]
    found = [f"{d.where}: {d.expected} undisturbed, {d.found} after kills" for d in proof.differences[:_MOST]]
    if more := len(proof.differences) - len(found):
        found.append(f"… and {more} more")
    if len(proof.kills) < proof.asked:
        found.append(f"the run was over before the other {proof.asked - len(proof.kills)} kills")
    return Table(title=title, verdict=_verdict(proof), fine=proof.equal, heads=heads, rows=rows, notes=found)


def _verdict(proof: ResumeProof) -> str:
    compared = f"{proof.lines} lines of the log and {proof.tensors} tensors"
    if not proof.kills:
        return "nothing was killed: nothing is shown"
    if proof.equal:
        return f"equal to the bit after {len(proof.kills)} kills: {compared}"
    return f"NOT equal after {len(proof.kills)} kills: {len(proof.differences)} differences in {compared}"


def _continues(step: int | None) -> str:
    return "the start" if step is None else f"step {step}"


def _discard(folder: Path) -> None:
    for name in (ALONE, KILLED):
        shutil.rmtree(folder / name, ignore_errors=True)
