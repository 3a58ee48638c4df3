"""Every example loads, reads its data, and trains two steps with a tiny model in place of the real one."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest

from flagai import Trainer, load_config

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/run.yaml"))
TINY = ["train.max_steps=2", "train.precision=fp32", "train.eval_steps=2", "train.device=cpu"]


def test_the_examples_are_found():
    assert len(EXAMPLES) >= 8


def prepared(folder, tmp_path, monkeypatch):
    """The folder, or where it has something to prepare, a copy in which that is done."""
    if not (folder / "prepare.py").is_file():
        return folder
    copy = tmp_path / "examples" / folder.name
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("poems", "model"))
    (copy.parent / "data").symlink_to(ROOT / "examples/data")
    monkeypatch.setenv("FLAGAI_CACHE", str(tmp_path / "cache"))
    runpy.run_path(str(copy / "prepare.py"), run_name="__main__")
    return copy


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_an_example_runs(folder, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = prepared(folder, tmp_path, monkeypatch)
    settings = [*TINY, f"output={tmp_path / 'run'}"]
    config = load_config(folder / "run.yaml", settings)
    if config.model.config is None:
        # The tiny vocabulary spells words in letters and reads 64 tokens: cut, so that no text is too long for it.
        settings += [f"model={tiny_bert}", "data.max_length=64", "data.stride=null"]
    result = Trainer(load_config(folder / "run.yaml", settings), offline=True).train()
    assert result.steps == 2
    assert "test" in result.metrics


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
