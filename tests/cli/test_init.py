"""`flagai init`: the run.yaml it writes loads, says what is in the file, and overwrites nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flagai.cli.init import Written, init
from flagai.config import RunConfig, load_config
from flagai.errors import ConfigError, DataError, MissingFileError, OutputError, UnknownNameError
from flagai.tasks.table import TASKS


def rows(path: Path, values: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
    return path


def intents(path: Path, count: int = 40) -> Path:
    return rows(path, [{"text": f"question {i}", "label": "ab"[i % 2]} for i in range(count)])


def written(file: Path, **options: Any) -> tuple[RunConfig, str]:
    """The config that init wrote beside `file`, and its text."""
    result = init(file, (file if file.is_dir() else file.parent) / "run.yaml", **options)
    return load_config(result.config), result.config.read_text(encoding="utf-8")


def test_classification(tmp_path: Path) -> None:
    file = intents(tmp_path / "questions.jsonl")
    config, text = written(file)
    assert config.task.name == "classification"
    assert config.model.name == "all-MiniLM-L6-v2"
    assert config.data.train == str(file)
    assert (config.data.columns.text, config.data.columns.label) == ("text", "label")
    assert config.data.holdout == 0.1
    assert config.output == "runs/questions"
    assert "40 rows" in text
    assert "2 labels found: a (20), b (20)" in text


def test_every_guess_is_a_task_that_exists(tmp_path: Path) -> None:
    pair = {"text": "a b", "text_pair": "c d"}
    files = {
        "classification": [{"text": f"t{i}", "label": i % 2} for i in range(9)],
        "semantic-matching": [{**pair, "label": i % 2} for i in range(9)],
        "ner": [{"text": "Ann went", "label": [{"start": 0, "end": 3, "label": "PER"}]}],
    }
    for task, values in files.items():
        folder = tmp_path / task
        folder.mkdir()
        config, _ = written(rows(folder / "data.jsonl", values))
        assert config.task.name == task
        assert task in TASKS


@pytest.mark.parametrize(
    "labels",
    [
        [["a"], ["a", "b"], []],
        ["a|b", "a", "b"],
        ["a; b", "a", "b"],
    ],
)
def test_multi_label(tmp_path: Path, labels: list[Any]) -> None:
    values = [{"text": f"t{i}", "label": label} for i, label in enumerate(labels * 4)]
    config, text = written(rows(tmp_path / "data.jsonl", values))
    assert config.task.multi_label is True
    assert "2 labels found" in text


def test_separator_inside_single_labels_is_no_list(tmp_path: Path) -> None:
    values = [{"text": f"t{i}", "label": ["true; mostly", "false; wholly"][i % 2]} for i in range(20)]
    assert written(rows(tmp_path / "data.jsonl", values))[0].task.multi_label is False


def test_similarity_is_regression_and_classes_are_not(tmp_path: Path) -> None:
    for name, labels, regression in (("a", [0.0, 2.5, 4.8], True), ("b", [0, 1, 2], False), ("c", ["0", "1"], False)):
        values = [{"sentence1": f"t{i}", "sentence2": "u", "score": label} for i, label in enumerate(labels * 4)]
        (tmp_path / name).mkdir()
        config, _ = written(rows(tmp_path / name / "data.jsonl", values))
        assert (config.task.name, config.task.regression) == ("semantic-matching", regression)
        assert config.data.columns.text_pair == "sentence2"


def test_conll_file(tmp_path: Path) -> None:
    file = tmp_path / "train.conll"
    file.write_text("Ann B-PER\nwent O\n\nto O\nRome B-LOC\n", encoding="utf-8")
    config, text = written(file)
    assert config.task.name == "ner"
    assert "columns:" not in text
    assert "PER (1)" in text


def test_unknown_column_names_are_told_by_their_look(tmp_path: Path) -> None:
    values = [{"id": i, "what they said": f"a longer text number {i}", "grp": "xy"[i % 2]} for i in range(20)]
    config, _ = written(rows(tmp_path / "data.jsonl", values))
    assert (config.data.columns.text, config.data.columns.label) == ("what they said", "grp")


def test_folder_and_neighbours(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        intents(tmp_path / f"{name}.jsonl")
    config, _ = written(tmp_path)
    assert config.data.train == str(tmp_path / "train.jsonl")
    assert (config.data.eval, config.data.test) == (str(tmp_path / "dev.jsonl"), str(tmp_path / "test.jsonl"))
    assert config.output == f"runs/{tmp_path.name}"
    assert written(tmp_path / "train.jsonl", force=True)[0] == config
    only_dev = written(tmp_path / "dev.jsonl", force=True)[0]
    assert (only_dev.data.eval, only_dev.data.test) == (None, None)


def test_chinese_gets_a_chinese_model_and_counts_characters(tmp_path: Path) -> None:
    values = [{"text": "这家餐厅的味道很好" * 10, "label": "好评"}, {"text": "太差", "label": "差评"}] * 4
    config, text = written(rows(tmp_path / "评论.jsonl", values))
    assert config.model.name == "RoBERTa-base-ch"
    assert config.data.max_length == 128  # 90 characters and 3 special tokens, a fifth to spare, to a multiple of 32
    assert "好评 (4)" in text


def test_long_texts_are_offered_a_stride(tmp_path: Path) -> None:
    config, text = written(rows(tmp_path / "data.jsonl", [{"text": "word " * 900, "label": i % 2} for i in range(4)]))
    assert config.data.max_length == 512
    assert "# stride: 128" in text


def test_rare_labels_are_offered_weights(tmp_path: Path) -> None:
    values = [{"text": f"t{i}", "label": "rare" if i == 0 else "usual"} for i in range(40)]
    assert "# class_weights: balanced" in written(rows(tmp_path / "data.jsonl", values))[1]


def test_odd_names_and_labels_still_load(tmp_path: Path) -> None:
    folder = tmp_path / "my data: #1"
    folder.mkdir()
    values = [{"text": f"t{i}", "yes: no": ["# a\nb", "no"][i % 2]} for i in range(8)]
    config, _ = written(rows(folder / "x - y.jsonl", values))
    assert config.data.train == str(folder / "x - y.jsonl")
    assert config.data.columns.label == "yes: no"


def test_task_and_model_may_be_said(tmp_path: Path) -> None:
    file = intents(tmp_path / "data.jsonl")
    config, _ = written(file, task="embedding", model="org/name")
    assert (config.task.name, config.model.name) == ("embedding", "org/name")
    with pytest.raises(UnknownNameError, match="classification"):
        init(file, tmp_path / "other.yaml", task="clasification")
    assert not (tmp_path / "other.yaml").exists()


def test_schema_lies_beside_and_is_named_in_the_first_line(tmp_path: Path) -> None:
    result = init(intents(tmp_path / "data.jsonl"), tmp_path / "sub" / "my.yaml")
    assert result.schema == tmp_path / "sub" / "my.schema.json"
    assert "properties" in json.loads(result.schema.read_text(encoding="utf-8"))
    first = result.config.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=my.schema.json"
    assert load_config(result.config).data.train == str(tmp_path / "sub" / ".." / "data.jsonl")


def test_summary(tmp_path: Path) -> None:
    result = init(intents(tmp_path / "data.jsonl"), tmp_path / "run.yaml")
    assert isinstance(result, Written)
    assert any("2 labels" in line for line in result.summary)
    assert "task classification" in result.summary


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    file = intents(tmp_path / "data.jsonl")
    config, schema = tmp_path / "run.yaml", tmp_path / "run.schema.json"
    config.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="--force"):
        init(file, config)
    assert config.read_text(encoding="utf-8") == "mine"
    config.unlink()
    schema.write_text("{}", encoding="utf-8")
    with pytest.raises(OutputError, match="no schema"):
        init(file, config)
    assert (schema.read_text(encoding="utf-8"), config.exists()) == ("{}", False)
    init(file, config, force=True)
    config.unlink()
    init(file, config)  # a schema of ours is renewed


@pytest.mark.parametrize(
    ("values", "error", "found"),
    [
        ([{"text": "a"}, {"text": "b"}], ConfigError, "no label found"),
        ([{"text": "a", "label": 1.5}, {"text": "b", "label": 2.5}], ConfigError, "is a number such as 1.5"),
        ([], DataError, "data.jsonl"),
    ],
)
def test_file_that_teaches_nothing(
    tmp_path: Path, values: list[dict[str, Any]], error: type[Exception], found: str
) -> None:
    with pytest.raises(error, match=found):
        init(rows(tmp_path / "data.jsonl", values), tmp_path / "run.yaml")
    assert not (tmp_path / "run.yaml").exists()
    assert not (tmp_path / "run.schema.json").exists()


def test_missing_file_and_folder_without_train(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        init(tmp_path / "none.jsonl", tmp_path / "run.yaml")
    (tmp_path / "set").mkdir()
    intents(tmp_path / "set" / "dev.jsonl")
    with pytest.raises(DataError, match="no train split"):
        init(tmp_path / "set", tmp_path / "run.yaml")


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    file = intents(tmp_path / "data.jsonl")
    with pytest.raises(OutputError, match="cannot be written"):
        init(file, file / "run.yaml")
