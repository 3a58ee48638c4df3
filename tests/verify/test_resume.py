"""The proof of resuming, held to runs that resume wrongly: it must see each of their mistakes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flagai.errors import FlagaiError
from flagai.verify.processes import Command
from flagai.verify.resume import ResumeProof, Start, prove, random_moments, undisturbed
from flagai.verify.runs import table
from flagai.verify.watch import Moment

SCRIPT = Path(__file__).with_name("scripted.py")


@pytest.fixture
def starter(tmp_path: Path) -> Callable[..., Start]:
    def make(*mistake: str) -> Start:
        def start(root: Path) -> Command:
            return Command([sys.executable, "-S", str(SCRIPT), str(root), *mistake], log=tmp_path / f"{root.name}.log")

        return start

    return make


MOMENTS = (Moment(step=2, delay=0.0), Moment(step=5, delay=0.01), Moment(step=5, delay=0.0), Moment(step=7, delay=0.0))


def proof(starter: Callable[..., Start], folder: Path, *mistake: str) -> ResumeProof:
    expected = undisturbed(starter(), folder / "undisturbed")
    return prove(starter(*mistake), expected, folder / "killed", MOMENTS)


def test_a_run_that_continues_exactly(starter: Callable[..., Start], tmp_path: Path) -> None:
    found = proof(starter, tmp_path)
    assert found.equal and len(found.kills) == 4 and found.lines == 12 and found.tensors == 1
    assert [kill.checkpoint for kill in found.kills] == [None, 3, 3, 6]
    shown = table(found, "title")
    assert shown.fine and "equal to the bit after 4 kills" in shown.text() and "12 lines" in shown.text()


def test_kills_while_saving_only(starter: Callable[..., Start], tmp_path: Path) -> None:
    expected = undisturbed(starter(), tmp_path / "undisturbed")
    assert expected.course.saves, "the saves of a run must be seen from outside"
    moments = random_moments(expected, 9, 1, "saves")
    assert all(moment.saving for moment in moments) and moments == random_moments(expected, 9, 1, "saves")
    found = prove(starter(), expected, tmp_path / "killed", [Moment(step=4, delay=0.0, saving=True)])
    assert found.equal and found.kills[0].during == "step-6" and found.kills[0].checkpoint == 3


@pytest.mark.parametrize(
    ("mistake", "where"),
    [
        ("forgets", "loss"),
        ("loses", "log.jsonl, train at step 1"),
        ("fails", "a continued run"),
        ("flips", "model.safetensors"),
    ],
)
def test_a_run_that_continues_wrongly(starter: Callable[..., Start], tmp_path: Path, mistake: str, where: str) -> None:
    found = proof(starter, tmp_path, mistake)
    assert not found.equal
    assert any(where in difference.where for difference in found.differences)
    shown = table(found, "title")
    assert not shown.fine and "NOT equal" in shown.text() and where in shown.text()


def test_a_run_that_fails_by_itself(starter: Callable[..., Start], tmp_path: Path) -> None:
    undisturbed(starter(), tmp_path / "run")
    with pytest.raises(FlagaiError, match="exit code 3:\nit does not go on"):
        undisturbed(starter("fails"), tmp_path / "run")


def test_a_run_that_never_saves(starter: Callable[..., Start], tmp_path: Path) -> None:
    expected = undisturbed(starter("never"), tmp_path / "undisturbed")
    with pytest.raises(FlagaiError, match="never seen saving"):
        random_moments(expected, 1, 0, "saves")
