"""`flagai init` on files of sources and targets: which task it sees, and that its run.yaml loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flagai.cli.init import init
from flagai.config import RunConfig, load_config


def written(file: Path, tmp_path: Path, **options: Any) -> RunConfig:
    return load_config(init(file, tmp_path / "run.yaml", **options).config)


def jsonl(tmp_path: Path, names: tuple[str, ...], count: int = 12) -> Path:
    rows = [{name: f"{name} number {i} of {name[0]}" for name in names} for i in range(count)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("names", "task", "text", "label"),
    [
        (("source", "target"), "seq2seq", "source", "target"),
        (("title", "content"), "title-generation", "content", "title"),
        (("abst", "title"), "title-generation", "abst", "title"),
        (("article", "highlights", "id"), "summarization", "article", "highlights"),
        (("context", "question", "answer"), "question-generation", "context", "question"),
    ],
)
def test_names_and_texts_that_differ_make_a_task_that_writes(
    tmp_path: Path, names: tuple[str, ...], task: str, text: str, label: str
) -> None:
    config = written(jsonl(tmp_path, names), tmp_path)
    assert config.task.name == task
    assert (config.data.columns.text, config.data.columns.label) == (text, label)
    assert config.train.eval_written == 100 and config.generate == {"num_beams": 4}


def test_a_target_that_returns_is_a_label(tmp_path: Path) -> None:
    rows = [{"text": f"a text {i}", "target": "ab"[i % 2]} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = written(tmp_path / "rows.jsonl", tmp_path)
    assert config.task.name == "classification" and config.generate == {}


def test_pairs_of_files(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        (tmp_path / f"{split}.src").write_text("晚风摇树树还挺\n晨露润花\n", encoding="utf-8")
        (tmp_path / f"{split}.tgt").write_text("晨露润花花更红\n晚风\n", encoding="utf-8")
    config = written(tmp_path / "train.src", tmp_path)
    assert config.task.name == "seq2seq" and config.model.name == "GLM-large-ch"
    assert config.data.eval == str(tmp_path / "dev.src")
    assert config.data.columns.text is None


def test_a_task_that_was_told(tmp_path: Path) -> None:
    file = jsonl(tmp_path, ("text", "label"))
    assert written(file, tmp_path, task="summarization").task.name == "summarization"
