"""`flagai plan` from a run.yaml to its table, and its predictions beside real steps in processes of their own."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flagai.cli.app import app
from flagai.config import RunConfig, load_config
from flagai.errors import ConfigError
from flagai.planning import plan
from flagai.planning.ghosts import Ghosts
from flagai.planning.held import held
from flagai.planning.layouts import Layout
from flagai.planning.machine import status
from flagai.planning.made import make
from flagai.planning.measure import measure
from flagai.planning.planner import own_processes
from flagai.planning.prepared import prepared

BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = [
        json.dumps({"text": " ".join(rng.choice(["good", "bad", "film", "book"], 1 + i % 40)), "label": "ab"[i % 2]})
        for i in range(64)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def settings(folder: Path, **more: object) -> dict[str, object]:
    return {
        "model": {"tokenizer": "characters", "config": {**BERT, "max_position_embeddings": 256}},
        "task": "classification",
        "data": {"train": str(folder / "train.jsonl"), "max_length": 256},
        "train": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
        "output": str(folder / "run"),
        **more,
    }


def config_of(folder: Path, **more: object) -> RunConfig:
    return load_config(settings(folder, **more))


def test_a_plan_without_a_step(rows: Path):
    planned = plan(config_of(rows), processes=2, device="cpu", measure=False, offline=True)
    own, *others = planned.rows
    assert own.own and own.name == "one process" and own.fits
    assert {"ddp 2", "fsdp 2", "zero3 2", "tensor 2", "pipeline 2"} <= {row.name for row in others}
    assert own.gradients == own.parameters == 4 * planned.parameters
    assert own.peak > own.parameters + own.gradients + own.optimizer + planned.program
    assert planned.steps == 8 and planned.examples == 8 and planned.parts == 1
    assert planned.change is not None and planned.change.found and not planned.change.needed
    assert planned.disk.checkpoint == own.parameters + own.optimizer
    assert planned.seconds is None
    assert json.loads(json.dumps(planned.to_json()))["rows"][0]["peak"] == own.peak
    assert not (rows / "run").exists()


def test_what_does_not_fit_and_what_would(rows: Path):
    whole = plan(config_of(rows), device="cuda", measure=False, offline=True).rows[0]
    least = plan(config_of(rows), device="cuda", memory=whole.peak - 1, measure=False, offline=True)
    assert not least.rows[0].fits
    assert least.change is not None and least.change.found
    assert least.change.settings == ("train.gradient_accumulation_steps=2",)
    assert least.change.peak < whole.peak
    none = plan(config_of(rows), device="cuda", memory=1 << 20, measure=False, offline=True)
    assert none.change is not None and not none.change.found


def test_the_command(rows: Path, tmp_path: Path):
    file = tmp_path / "run.json"
    file.write_text(json.dumps(settings(rows)), encoding="utf-8")
    done = CliRunner().invoke(app, ["plan", str(file), "--no-measure", "--offline", "--processes", "2"])
    assert done.exit_code == 0, done.output
    for words in ("one process (yours)", "fsdp 2", "activations", "fits as it is", "disk:"):
        assert words in done.output
    done = CliRunner().invoke(app, ["plan", str(file), "--no-measure", "--offline", "--json", "--memory", "1MiB"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout[done.stdout.index("{") :])["change"]["found"] is False


def test_memory_that_cannot_be_meant(rows: Path):
    with pytest.raises(ConfigError, match="cpu or cuda"):
        plan(config_of(rows), device="tpu", measure=False, offline=True)


def test_processes_of_the_settings(rows: Path):
    assert own_processes(config_of(rows), "cpu") == 1
    assert own_processes(config_of(rows, parallel={"strategy": "ddp"}), "cpu") == 2
    assert own_processes(config_of(rows, parallel={"strategy": "ddp", "tensor": 4}), "cpu") == 4
    assert own_processes(config_of(rows, parallel={"strategy": "fsdp", "processes": 6}), "cpu") == 6


LARGER = {**BERT, "hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 5, "intermediate_size": 2048}


def compare(folder: Path, **more: object) -> None:
    """The peak of real steps, beside what the program takes, within a quarter of the prediction."""
    model = {"tokenizer": "characters", "config": {**LARGER, "max_position_embeddings": 256}}
    config = config_of(folder, model=model, **more)
    processes = own_processes(config, "cpu")
    planned = plan(config, device="cpu", measure=False, offline=True)
    predicted = planned.rows[0].peak - planned.program
    for told in measure(config.to_dict(), processes, offline=True):
        assert 0.75 < predicted / (told["peak"] - told["before"]) < 1.25
        assert told["heaviest"] > 0 and told["typical"] > 0


def test_the_peak_of_a_real_step(rows: Path):
    compare(rows)


@pytest.mark.proof
@pytest.mark.parametrize(
    "more",
    [
        {"train": {"batch_size": 32, "precision": "bf16"}},
        {"train": {"batch_size": 32}, "parallel": {"recompute": True}},
        {"train": {"batch_size": 32, "gradient_accumulation_steps": 4}},
        {"parallel": {"strategy": "ddp", "processes": 2}},
        {"parallel": {"strategy": "fsdp", "processes": 2}},
        {"parallel": {"strategy": "ddp", "processes": 2, "tensor": 2}},
        {"parallel": {"strategy": "zero2", "processes": 2}},
    ],
    ids=str,
)
def test_the_peak_of_other_layouts(rows: Path, more: dict[str, object], monkeypatch: pytest.MonkeyPatch):
    """Without what glibc keeps of freed memory: with recomputing that was as much again as the step needed."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "131072")
    compare(rows, **more)


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["glm-10b", "t5-11b"])
def test_the_shapes_among_the_examples(name: str, tmp_path: Path):
    """Ten billion parameters are counted without any of them being made."""
    folder = tmp_path / "examples" / name
    shutil.copytree(ROOT / "examples" / name, folder, ignore=shutil.ignore_patterns("model"))
    (tmp_path / "examples/data").symlink_to(ROOT / "examples/data")
    if name == "glm-10b":
        runpy.run_path(str(folder / "prepare.py"), run_name="__main__")
    config = load_config(folder / "run.yaml")
    ready = prepared(config, offline=True, tell=lambda _: None)
    before = status("/proc/self/status").get("VmRSS", 0)
    ghosts = Ghosts()
    model = make(config, ready.parts, ghosts, kind="cuda")
    assert 9.5e9 < sum(p.numel() for p in model.parameters()) < 11.5e9
    there = held(model, Layout(config=config, processes=8))
    assert there.parameters == pytest.approx(4 * sum(p.numel() for p in model.parameters()) / 8, rel=0.01)
    assert status("/proc/self/status").get("VmRSS", 0) - before < 500 << 20
