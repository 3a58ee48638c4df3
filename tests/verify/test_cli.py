"""`flagai verify`: table, pages, exit codes; and once with real commands (a proof)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flagai.config import load_config
from flagai.verify import parallel, runs
from flagai.verify.compare import Difference
from flagai.verify.parallel import Compared, ParallelProof
from flagai.verify.resume import Kill, ResumeProof

KILLS = (Kill(step=3, during="", checkpoint=None, lines=3), Kill(step=9, during="step-9", checkpoint=6, lines=11))
FINE = ResumeProof(asked=2, kills=KILLS, lines=14, tensors=41, differences=(), seconds=(1.0, 3.0))
WRONG = ResumeProof(
    asked=3,
    kills=KILLS,
    lines=14,
    tensors=41,
    differences=(Difference(where="log.jsonl, train at step 7: loss", expected="<0.5>", found="0.6"),),
    seconds=(1.0, 3.0),
)


@pytest.fixture
def run(tiny_bert: Path, reviews: Path, tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(
        f"model: {tiny_bert}\ntask: classification\ndata: {{train: {reviews}/train.jsonl, eval: {reviews}/dev.jsonl}}\n"
        f"train: {{epochs: 1, batch_size: 4, learning_rate: 3e-3, device: cpu}}\noutput: {tmp_path}/runs/one\n",
        encoding="utf-8",
    )
    return file


def resume_gives(monkeypatch: pytest.MonkeyPatch, proof: ResumeProof) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []

    def stand_in(config: Any, folder: Path, **options: Any) -> ResumeProof:
        asked.append({"output": config.output, "folder": folder, **options})
        return proof

    monkeypatch.setattr(runs, "verify_resume", stand_in)
    return asked


def test_a_proof_that_holds(
    cli: Callable[..., Any], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = resume_gives(monkeypatch, FINE)
    spoken = cli("verify", "resume", run, "--kills", 2, "--seed", 7, "--during", "saves", "train.batch_size=2")
    assert spoken.code == 0, spoken.err
    assert "equal to the bit after 2 kills: 14 lines of the log and 41 tensors" in spoken.out
    assert "step-9" in spoken.out and "the start" in spoken.out
    assert (asked[0]["kills"], asked[0]["seed"], asked[0]["during"]) == (2, 7, "saves")
    folder = tmp_path / "runs/one-verify"
    assert asked[0]["folder"] == folder
    kept = json.loads((folder / "resume.json").read_text())
    assert kept["equal"] is True and kept["kills"][1]["checkpoint"] == 6
    page = (folder / "resume.html").read_text()
    assert "status good" in page and "<script" not in page and "http" not in page


def test_a_proof_that_does_not_hold(cli: Callable[..., Any], run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resume_gives(monkeypatch, WRONG)
    spoken = cli("verify", "resume", run, "--output", run.parent / "there")
    assert spoken.code == 1
    assert "NOT equal after 2 kills: 1 differences" in spoken.out and "the other 1 kills" in spoken.out
    assert "&lt;0.5&gt; undisturbed" in (run.parent / "there/resume.html").read_text()


def test_the_table_of_strategies(cli: Callable[..., Any], run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Compared(name="DDP 2", processes=2, loss=1e-7), Compared(name="TP 2", processes=2, norm=1.0)]
    for fine in (True, False):
        proof = ParallelProof(steps=3, rows=tuple(rows[: 1 if fine else 2]))
        monkeypatch.setattr(parallel, "verify_parallel", lambda *a, proof=proof, **b: proof)
        spoken = cli("verify", "parallel", run, "--steps", 3)
        assert spoken.code == (0 if fine else 1), spoken.err
        assert ("DIFFERENT" in spoken.out) is not fine


def test_wrong_words_are_told_before_anything_runs(cli: Callable[..., Any], run: Path) -> None:
    spoken = cli("verify", "resume", run, "--during", "save")
    assert spoken.code == 2 and "saves" in spoken.err
    spoken = cli("verify", "resume", run, "train.bath_size=3")
    assert spoken.code == 2 and "batch_size" in spoken.err


def test_fewer_steps_still_save_and_evaluate(run: Path) -> None:
    config = load_config(run)
    whole, short = runs.shrunk(config, None).train, runs.shrunk(config, 40).train
    assert whole == config.train.model_copy(update={"logging_steps": 1})
    assert (short.max_steps, short.save_steps, short.eval_steps, short.logging_steps) == (40, 5, 10, 1)


@pytest.mark.proof
@pytest.mark.parametrize("processes", [1, 2])
def test_the_real_command(cli: Callable[..., Any], run: Path, processes: int) -> None:
    several = ["parallel.strategy=ddp", "parallel.processes=2"] if processes == 2 else []
    spoken = cli("verify", "resume", run, "--kills", 3, "--steps", 24, "--offline", *several)
    assert spoken.code == 0, spoken.out + spoken.err
    assert "equal to the bit after" in spoken.out
    assert sorted(path.suffix for path in (run.parent / "runs/one-verify").iterdir()) == [
        ".html", ".json", ".log", ".log", ".yaml"
    ]  # fmt: skip
