"""Every strategy against one process, on a small copy of the user's model; a wrong one is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from flagai.config import RunConfig, load_config
from flagai.verify import parallel
from flagai.verify.layouts import LAYOUTS
from flagai.verify.parallel import MODEL, Compared, ParallelProof, table, verify_parallel

DDP = [layout for layout in LAYOUTS if layout.name == "DDP 2"]


@pytest.fixture
def run(tiny_bert: Path, reviews: Path) -> RunConfig:
    values = {
        "model": str(tiny_bert),
        "task": "classification",
        "data": {"train": str(reviews / "train.jsonl"), "eval": str(reviews / "dev.jsonl")},
        "train": {"batch_size": 7, "gradient_accumulation_steps": 2},
        "output": "unused",
    }
    return load_config(values)


def test_two_copies_train_as_one_process_and_a_wrong_count_is_seen(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"steps": 4, "layouts": DDP, "offline": True, "width": 32, "layers": 2}
    found = verify_parallel(run, tmp_path / "proof", **options)  # type: ignore[arg-type]
    assert found.equal and found.rows[0].loss > 0, "something was compared"
    assert list((tmp_path / "proof").iterdir()) == []
    monkeypatch.setattr(parallel, "JOB", "verify_jobs:wrong_count")
    wrong = verify_parallel(run, tmp_path / "proof", keep=True, **options)  # type: ignore[arg-type]
    assert not wrong.equal and not wrong.rows[0].impossible
    assert {path.name for path in (tmp_path / "proof").iterdir()} == {MODEL, "one-process", "ddp-2"}


def test_what_cannot_be_is_said_and_is_no_mistake() -> None:
    fine = Compared(name="DDP 2", processes=2, loss=1e-7)
    absent = Compared(name="ZeRO-1 2", processes=2, impossible="the package 'deepspeed' is not installed")
    shown = table(ParallelProof(steps=4, rows=(fine, absent)), "title")
    assert shown.fine and "1 layouts train as one process" in shown.text() and "not installed" in shown.text()
    assert not ParallelProof(steps=4, rows=(absent,)).equal, "nothing was shown"
    bad = Compared(name="TP 2", processes=2, norm=0.1)
    shown = table(ParallelProof(steps=4, rows=(fine, bad)), "title")
    assert not shown.fine and "NOT as one process: TP 2" in shown.text()
    broken = Compared(name="TP 2", processes=2, broken="ValueError: x")
    assert not ParallelProof(steps=4, rows=(fine, broken)).equal
    assert "BROKEN" in table(ParallelProof(steps=4, rows=(fine, broken)), "title").text()
