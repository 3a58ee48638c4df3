"""Every example loads, reads its data, and trains two steps with a tiny model in place of the real one."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest

from flagai import Trainer, load_config
from flagai.tasks.table import TASKS

ROOT = Path(__file__).parents[1]
SHAPES = {"glm-10b", "t5-11b"}
"""what no test machine trains: `flagai plan` is tried on them instead"""
EXAMPLES = sorted(p.parent for p in (ROOT / "examples").glob("*/run.yaml") if p.parent.name not in SHAPES)
SLOW = {"title-csl_glm"}
TINY = ["train.max_steps=2", "train.precision=fp32", "train.eval_steps=2", "train.device=cpu"]


def test_the_examples_are_found():
    assert len(EXAMPLES) >= 8


def prepared(folder, tmp_path, monkeypatch):
    """The folder, or where it has something to prepare, a copy in which that is done."""
    if not (folder / "prepare.py").is_file():
        return folder
    copy = tmp_path / "examples" / folder.name
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("poems", "model", "pairs"))
    (copy.parent / "data").symlink_to(ROOT / "examples/data")
    monkeypatch.setenv("FLAGAI_CACHE", str(tmp_path / "cache"))
    runpy.run_path(str(copy / "prepare.py"), run_name="__main__")
    return copy


def tiny_settings(folder: Path, tiny_bert: Path, settings: list[str]) -> list[str]:
    """What makes a run small: a tiny model in place of a pretrained one, short answers where it writes."""
    config = load_config(folder / "run.yaml", settings)
    if config.parallel.strategy != "single":  # this test has one process
        settings = [*settings, "parallel={strategy: single}"]
    if TASKS[config.task.name].kind == "target":
        settings = [*settings, "generate.num_beams=1", "generate.max_new_tokens=4"]
        settings += ["data.max_target_length=24", "data.max_length=48"]
    if config.model.name == "all-MiniLM-L6-v2":
        # The tiny vocabulary spells words in letters and reads 64 tokens: cut, so that no text is too long for it.
        settings = [*settings, f"model={tiny_bert}", "data.max_length=64", "data.stride=null"]
    elif (folder / "model/config.json").is_file() and config.model.config is None:
        # What an earlier part of the example would have trained.
        settings = [*settings, f"model={folder / 'model'}"]
    return settings


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(folder, id=folder.name, marks=[pytest.mark.slow] if folder.name in SLOW else [])
        for folder in EXAMPLES
    ],
)
def test_an_example_runs(folder, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = prepared(folder, tmp_path, monkeypatch)
    settings = tiny_settings(folder, tiny_bert, [*TINY, f"output={tmp_path / 'run'}"])
    result = Trainer(load_config(folder / "run.yaml", settings), offline=True).train()
    assert result.steps == 2
    assert "test" in result.metrics


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "examples").glob("*/*.yaml")),
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_every_configuration_of_the_examples_loads(path):
    assert load_config(path).output.startswith("runs/")


def test_the_baselines_of_the_examples_can_be_measured(capsys):
    script = runpy.run_path(str(ROOT / "examples/baselines.py"))
    script["main"](ROOT / "examples/couplet-lvshi_glm/run.yaml")
    rows = [line.split("|")[1:4] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [[cell.strip() for cell in row] for row in rows if "first 5" in row[2]] == [
        ["eval", "292", "first 5 characters"],
        ["test", "430", "first 5 characters"],
    ]


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_an_example_says_how_to_run_it_and_what_to_see(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert f"flagai train examples/{folder.name}/run.yaml" in text
    assert "minutes" in text
    assert "| test |" in text


def test_data_of_the_examples_is_named_in_the_notice():
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for folder in (*(ROOT / "examples/data").iterdir(), *(ROOT / "tests/fixtures/data").iterdir()):
        assert str(folder.relative_to(ROOT)) in notice
