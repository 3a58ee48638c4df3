"""A run on two processes: it is the run of one process, it stops and continues together, and it fails aloud."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import several_jobs
import torch
from safetensors.torch import load_file

from flagai import Predictor, Trainer, load_config

sys.path.insert(0, str(Path(__file__).parents[1] / "parallel"))
import spread_world as worlds

NEAR = 2e-5
"""largest difference of losses near 0.7, and of weights, in fp32; with an epsilon that does not blow up what is zero"""
LAYOUTS: dict[str, tuple[str, ...]] = {
    "ddp": ("parallel.strategy=ddp",),
    "fsdp": ("parallel.strategy=fsdp",),
    "tensor": ("parallel.strategy=ddp", "parallel.tensor=2"),
    "pipeline": ("parallel.strategy=ddp", "parallel.pipeline=2"),
}


@pytest.fixture(scope="module")
def two() -> Iterator[Any]:
    with worlds.world(2) as made:
        yield made


def settings(data: Path, model: Path, output: Path, **task: Any) -> dict[str, Any]:
    return {
        "model": str(model),
        "task": {"name": "classification", "pooling": "mean", "dropout": 0.0, **task},
        "data": {"train": str(data / "train.jsonl"), "eval": str(data / "dev.jsonl")},
        "train": {
            "epochs": 2, "batch_size": 9, "learning_rate": 3e-3, "device": "cpu", "logging_steps": 1,
            "gradient_accumulation_steps": 2, "adam_epsilon": 1e-4,
        },
        "output": str(output),
    }  # fmt: skip


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in log(run)]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{f.name}/{n}": t for f in sorted(folder.glob("*.safetensors")) for n, t in load_file(f).items()}


def furthest(one: Path, other: Path) -> float:
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys() and a
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def state(run: Path, step: int) -> dict[str, Any]:
    return json.loads((run / f"checkpoints/step-{step}/train_state/state.json").read_text())["train"]


@pytest.mark.parametrize("way", LAYOUTS)
def test_two_processes_run_as_one(two, reviews, calm_bert, tmp_path, way):
    alone = Trainer(load_config(settings(reviews, calm_bert, tmp_path / "one"))).train()
    found = two.run("several_jobs:train", values=settings(reviews, calm_bert, tmp_path / "two"), overrides=LAYOUTS[way])
    assert found[0]["metrics"].keys() == alone.metrics.keys() and found[0]["metrics"] == found[1]["metrics"]
    assert found[0]["metrics"]["eval"] == pytest.approx(alone.metrics["eval"], abs=NEAR)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=NEAR)
    assert furthest(tmp_path / "one/final", tmp_path / "two/final") < NEAR
    names = [{p.name for p in (tmp_path / run).rglob("*") if "step-" not in str(p)} for run in ("one", "two")]
    assert names[0] == names[1] and "README.md" in names[0]
    reports = [json.loads((tmp_path / run / "report.json").read_text()) for run in ("one", "two")]
    assert reports[0]["model_info"] == reports[1]["model_info"]
    assert (reports[0]["environment"]["processes"], reports[1]["environment"]["processes"]) == (1, 2)
    states = [state(tmp_path / run, 12) for run in ("one", "two")]
    for key in ("step", "examples", "tokens", "best_step", "epoch_steps"):
        assert states[0][key] == states[1][key], key
    assert found[0]["heard"] and found[0]["rows"] and not found[1]["heard"] and not found[1]["rows"]
    rows = [json.loads(line)["text"] for line in (reviews / "dev.jsonl").read_text().splitlines()]
    predicted = [
        [p.label for p in Predictor.from_folder(tmp_path / run / "final").predict(rows)] for run in ("one", "two")
    ]
    assert predicted[0] == predicted[1]


@pytest.mark.parametrize(
    ("way", "rank", "step", "evaluating"),
    [("ddp", 1, 3, False), ("fsdp", 1, 6, True), ("ddp", 0, 6, True)],
    ids=["mid-epoch-on-1", "in-evaluation-on-1", "in-evaluation-on-0"],
)
def test_a_signal_on_one_process_stops_both_and_the_run_continues_to_the_bit(
    two, reviews, tiny_bert, tmp_path, way, rank, step, evaluating
):
    whole = settings(reviews, tiny_bert, tmp_path / "whole")
    cut = settings(reviews, tiny_bert, tmp_path / "cut")
    two.run("several_jobs:train", values=whole, overrides=LAYOUTS[way])
    stop = {"signal_at": step, "on_rank": rank, "while_evaluating": evaluating}
    # How batches are prepared and when a checkpoint is written changes nothing.
    workers = (*LAYOUTS[way], "train.num_workers=2", f"train.async_save={str(rank == 0).lower()}")
    found = two.run("several_jobs:train", values=cut, overrides=workers, **stop)
    assert [result.get("interrupted") for result in found] == [True, True]
    status = json.loads((tmp_path / "cut/status.json").read_text())
    assert (status["status"], status["step"]) == ("interrupted", step)
    found = two.run("several_jobs:train", values=cut, overrides=LAYOUTS[way])
    assert any(f"from step {step}" in text for text in found[0]["heard"])
    assert not any("not be equal" in text for text in found[0]["heard"])
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert furthest(tmp_path / "cut/final", tmp_path / "whole/final") == 0


def test_a_run_goes_on_in_another_layout_and_says_so(two, reviews, calm_bert, tmp_path):
    Trainer(load_config(settings(reviews, calm_bert, tmp_path / "one"))).train()
    values = settings(reviews, calm_bert, tmp_path / "moved")
    for step, way in ((3, "ddp"), (5, "fsdp"), (8, "pipeline")):
        two.run("several_jobs:train", values=values, overrides=LAYOUTS[way], signal_at=step)
    listen = several_jobs.Listen()
    Trainer(load_config(values), callbacks=[listen]).train()
    table = next(text for text in listen.heard if "in the checkpoint" in text)
    assert "not be equal to the bit" in table and "another layout" in table
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.strip()}
    assert rows["parallel.strategy"] == ["ddp", "single", "single"]
    assert rows["parallel.pipeline"] == ["2", "1", "1"] and rows["processes"] == ["2", "1", "1"]
    assert losses(tmp_path / "moved") == pytest.approx(losses(tmp_path / "one"), abs=NEAR)
    assert furthest(tmp_path / "moved/final", tmp_path / "one/final") < NEAR


@pytest.mark.parametrize(
    ("way", "task", "model"),
    [
        ("fsdp", {"head": "cosine"}, {}),
        ("pipeline", {"head": "cosine"}, {}),
        ("fsdp", {}, {"lora": {"r": 2}}),
        ("tensor", {"pooling": None}, {}),
    ],
    ids=["cosine-fsdp", "cosine-pipeline", "lora-fsdp", "stock-tensor"],
)
def test_heads_and_adapters(two, reviews, calm_bert, tmp_path, way, task, model):
    runs = []
    for name in ("one", "two"):
        values = settings(reviews, calm_bert, tmp_path / name, **task)
        values["model"] = {"name": str(calm_bert), **model}
        runs.append(values)
    Trainer(load_config(runs[0])).train()
    two.run("several_jobs:train", values=runs[1], overrides=LAYOUTS[way])
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=NEAR)
    assert furthest(tmp_path / "one/final", tmp_path / "two/final") < NEAR
    Predictor.from_folder(tmp_path / "two/final").predict("a good film")


def test_a_large_model_is_read_in_parts(two, calm_bert, tmp_path):
    """No process builds it whole: each reads what it holds of the folder."""
    rows = [{"text": f"the {word} film was good", "label": f"a {word} one"} for word in ("fine", "bad", "great") * 4]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = settings(tmp_path, calm_bert, tmp_path / "one")
    values |= {"task": "seq2seq", "data": {"train": str(tmp_path / "train.jsonl"), "eval_fraction": 0}}
    Trainer(load_config(values)).train()
    other = values | {"output": str(tmp_path / "two")}
    found = two.run("several_jobs:train", values=other, overrides=LAYOUTS["fsdp"], large=True)
    assert found[0]["in_parts"] and found[1]["in_parts"]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=NEAR)
    assert furthest(tmp_path / "one/final", tmp_path / "two/final") < NEAR


def test_other_data_on_one_process_is_named(two, reviews, tiny_bert, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("".join((reviews / "train.jsonl").read_text().splitlines(keepends=True)[:-2]))
    values = settings(reviews, tiny_bert, tmp_path / "run")
    found = two.run("several_jobs:train", values=values, overrides=LAYOUTS["ddp"], other_file=str(other))
    assert [result["kind"] for result in found] == ["OtherRankError", "DataError"]
    assert all("rank 1 reads other training data" in result["error"] for result in found)
    other.unlink()
    found = two.run("several_jobs:train", values=values, overrides=LAYOUTS["ddp"], other_file=str(other))
    assert "rank 1 stopped" in found[0]["error"] and "other.jsonl" in found[0]["error"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "on_one", "on_zero"),
    [
        ("data", "ValueError: planted", "OtherRankError: rank 1 stopped: ValueError: planted"),
        ("memory", "OutOfMemoryError: train: out of memory at step 3 on rank 1", "gradient_accumulation_steps=4"),
        ("killed", "", "OtherRankError: the connection to another process broke"),
    ],
)
def test_an_error_on_one_process_is_the_error_of_both(two, reviews, tiny_bert, tmp_path, error, on_one, on_zero):
    values = settings(reviews, tiny_bert, tmp_path / "run")
    job = {"values": values, "overrides": LAYOUTS["ddp"], "error": error, "results": str(tmp_path)}
    with pytest.raises((EOFError, ConnectionError)):
        two.run("several_jobs:crash", **job)
    end = time.monotonic() + 60
    while not (tmp_path / "0.txt").exists() and time.monotonic() < end:
        time.sleep(0.05)
    two.stop()
    assert on_zero in (tmp_path / "0.txt").read_text()
    if on_one:
        assert on_one in (tmp_path / "1.txt").read_text()
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert status["status"] == "failed" and status["step"] == 2
