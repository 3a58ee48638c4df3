"""Bad input through the command line: a message with place, found, expected and fix; nothing placed, nothing left.

Each case is called as the shell calls it. What is wrong must be found before a model is moved to a device, the message
must be ours (no traceback), and no output folder may come into being.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

GOOD = [{"text": f"good film {i}", "label": "good"} for i in range(6)]
BAD = [{"text": f"bad book {i}", "label": "bad"} for i in range(6)]
ROWS = [row for pair in zip(GOOD, BAD, strict=True) for row in pair]

Run = tuple[Path, dict[str, Any]]
"""a folder with train.jsonl, dev.jsonl and a model, and the settings of a run on them"""


def jsonl(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path, tiny_bert: Path) -> Run:
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copytree(tiny_bert, folder / "model")
    jsonl(folder / "train.jsonl", ROWS)
    jsonl(folder / "dev.jsonl", ROWS[:4])
    settings: dict[str, Any] = {
        "model": str(folder / "model"),
        "task": {"name": "classification"},
        "data": {"train": str(folder / "train.jsonl"), "eval": str(folder / "dev.jsonl")},
        "train": {"max_steps": 4, "batch_size": 4, "device": "cpu"},
        "output": str(folder / "run"),
    }
    return folder, settings


def write(run: Run) -> Path:
    folder, settings = run
    (folder / "run.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    return folder / "run.yaml"


def check_message(spoken: Any, code: int, *words: str) -> None:
    assert "Traceback" not in spoken.err
    assert spoken.code == code, spoken
    assert "flagai: " in spoken.err
    message = spoken.err[spoken.err.index("flagai: ") :]
    for word in ("expected: ", "to do: ", *words):
        assert word in message, f"{word!r} is not in:\n{message}"


# -- cases: each breaks the run and says which words the message must hold ---------------------------------------


def missing_file(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["data"]["train"] = str(folder / "trian.jsonl")
    return (str(folder / "trian.jsonl"), "no such file", f"did you mean {folder / 'train.jsonl'}?")


def empty_file(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    (folder / "train.jsonl").write_bytes(b"")
    return (str(folder / "train.jsonl"), "empty", "at least one row")


def empty_eval_file(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    (folder / "dev.jsonl").write_bytes(b"\n\n")
    return (str(folder / "dev.jsonl"), "empty")


def binary_file(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    (folder / "train.jsonl").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    return (str(folder / "train.jsonl"), "not a text file", "PNG")


def wrong_encoding(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    lines = [json.dumps(row, ensure_ascii=False) for row in [*ROWS, {"text": "这本书写得很好", "label": "good"}]]
    (folder / "train.jsonl").write_bytes("\n".join(lines).encode("gb18030"))
    return (f"{folder / 'train.jsonl'}:13", "UTF-8", "data.encoding: gb18030")


def broken_json(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"text": "cut off", "la')
    return (f"{folder / 'train.jsonl'}:13",)


def missing_column(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["data"]["columns"] = {"text": "body"}
    return (str(folder / "train.jsonl"), "body", "'text'", "'label'")


def missing_field(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    jsonl(folder / "train.jsonl", [*ROWS, {"text": "no label here"}])
    return (f"{folder / 'train.jsonl'}:13", "'label'", "missing")


def text_that_is_a_number(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    jsonl(folder / "dev.jsonl", [*ROWS[:3], {"text": 7, "label": "good"}])
    return (f"{folder / 'dev.jsonl'}:4", "'text'", "a string")


def unseen_label(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    jsonl(folder / "dev.jsonl", [*ROWS[:4], {"text": "a film", "label": "god"}])
    return (f"{folder / 'dev.jsonl'}:5", "unknown label 'god'", "bad, good", "did you mean 'good'?")


def unseen_entity(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["task"] = {"name": "ner"}
    jsonl(folder / "train.jsonl", [{"text": "the film", "label": [{"start": 4, "end": 8, "label": "WORK"}]}] * 3)
    jsonl(folder / "dev.jsonl", [{"text": "the hotel", "label": [{"start": 4, "end": 9, "label": "PLACE"}]}])
    return (f"{folder / 'dev.jsonl'}:1", "unknown label 'PLACE'", "WORK")


def label_not_in_the_table(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["task"]["labels"] = ["good", "mixed"]
    return (f"{folder / 'train.jsonl'}:2", "unknown label 'bad'", "good, mixed")


def class_weight_of_no_label(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["task"]["class_weights"] = {"goood": 2.0}
    return ("task.class_weights", "unknown label 'goood'", "did you mean 'good'?")


def one_class(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    jsonl(folder / "train.jsonl", GOOD)
    return (str(folder / "train.jsonl"), "'good'", "at least two classes")


def one_score(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["task"] = {"name": "semantic-matching", "regression": True}
    jsonl(folder / "train.jsonl", [{"text": f"a {i}", "text_pair": "b", "label": 1.0} for i in range(9)])
    del settings["data"]["eval"]
    return (str(folder / "train.jsonl"), "score 1.0", "two different")


def no_entity(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["task"] = {"name": "ner-gp"}
    jsonl(folder / "train.jsonl", [{"text": f"the film {i}", "label": []} for i in range(9)])
    del settings["data"]["eval"]
    return (str(folder / "train.jsonl"), "entity")


def no_second_text(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["task"] = {"name": "semantic-matching"}
    return (str(folder / "train.jsonl"), "text_pair", "'text', 'label'")


def broken_tags(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["task"] = {"name": "ner-crf"}
    (folder / "train.txt").write_text("a O\nfilm B-WORK\n\nthe O\nhotel I-PLACE\n", encoding="utf-8")
    settings["data"]["train"] = str(folder / "train.txt")
    return (f"{folder / 'train.txt'}:5", "'I-PLACE'", "B-PLACE")


def span_outside(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["task"] = {"name": "ner"}
    jsonl(folder / "train.jsonl", [{"text": "the film", "label": [{"start": 4, "end": 80, "label": "WORK"}]}])
    return (f"{folder / 'train.jsonl'}:1", "4:80", "8 characters")


def text_beyond_the_model(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    jsonl(folder / "train.jsonl", [*ROWS, {"text": "good " * 99, "label": "good"}])
    return (f"{folder / 'train.jsonl'}:13", "37 tokens more", "at most 64", "data.stride")


def other_vocabulary(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    vocabulary = (folder / "model/vocab.txt").read_text("utf-8").split()
    (folder / "large").mkdir()
    (folder / "large/vocab.txt").write_text("\n".join([*vocabulary, *map(str, range(10, 99))]), encoding="utf-8")
    settings["model"] = {"name": str(folder / "model"), "tokenizer": str(folder / "large")}
    rows = len(vocabulary)
    return (f"ids up to {rows + 88}", f"{rows} rows")


def no_weights(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    (folder / "model/model.safetensors").unlink()
    return (str(folder / "model"), "no weights", "model.safetensors")


def no_tokenizer(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / "model" / name).unlink(missing_ok=True)
    return ("no tokenizer", str(folder / "model"))


def damaged_config(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    (folder / "model/config.json").write_text('{"model_type": "bert",', encoding="utf-8")
    return (str(folder / "model/config.json"), "JSON")


def truncated_weights(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    file = folder / "model/model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return (str(file), "cut off")


def _without_tensor(folder: Path, ending: str) -> str:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if name.endswith(ending))
    del state[name]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return name


def uninitialised_parameter(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    name = _without_tensor(folder / "model", "layer.1.attention.self.query.weight")
    return (str(folder / "model"), name.removeprefix("bert."), "not in the checkpoint")


def tensor_of_another_shape(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    config = json.loads((folder / "model/config.json").read_text("utf-8"))
    (folder / "model/config.json").write_text(json.dumps(config | {"intermediate_size": 48}), encoding="utf-8")
    return (str(folder / "model"), "another shape", "intermediate.dense")


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.target}",)


def hostile_pickle(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    (folder / "model/model.safetensors").unlink()
    (folder / "model/pytorch_model.bin").write_bytes(pickle.dumps({"weight": _Bomb(folder / "exploded")}))
    return (str(folder / "model/pytorch_model.bin"), "system", "nothing of it was executed")


def folder_of_something_else(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["output"] = str(folder / "photos")
    (folder / "photos").mkdir()
    (folder / "photos/cat.jpg").write_bytes(b"cat")
    return (str(folder / "photos"), "not a run of flagai", "choose another output")


def output_is_a_file(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["output"] = str(folder / "train.jsonl")
    return (str(folder / "train.jsonl"), "this is a file")


def unknown_key(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["train"]["learning_rat"] = 1e-3
    return (str(folder / "run.yaml"), "train.learning_rat", "learning_rate")


def unknown_section(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["trian"] = {}
    return ("trian", "train")


def wrong_value(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["train"]["batch_size"] = "many"
    return (str(folder / "run.yaml"), "train.batch_size", "many")


def unknown_task(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["task"] = "clasification"
    return ("task.name", "unknown task 'clasification'", "did you mean 'classification'")


def unknown_model(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["model"] = "all-MiniLM-L6-v3"
    return ("model.name", "unknown model 'all-MiniLM-L6-v3'", "all-MiniLM-L6-v2")


def option_of_another_task(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["task"]["inner_dim"] = 8
    return ("task.inner_dim", "means nothing to the task 'classification'")


def length_beyond_the_model(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["data"]["max_length"] = 65
    return ("data.max_length", "65", "at most 64")


def unknown_metric(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["train"]["best_metric"] = "acuracy"
    return ("train.best_metric", "'acuracy'", "accuracy")


def damage_above_the_limit(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["data"] |= {"max_length": 8, "audit": {"fail_above": 0.01}}
    jsonl(folder / "train.jsonl", [*ROWS, {"text": "good " * 30, "label": "good"}])
    return ("fail_above", "train.jsonl:13")


def no_training_file(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    del settings["data"]["train"]
    return ("data.train",)


def no_model(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    del settings["model"]
    return ("model", "no model is named")


def budget_below_the_longest(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["train"] |= {"batch_size": None, "batch_tokens": 8}
    jsonl(folder / "train.jsonl", [*ROWS, {"text": "good " * 30, "label": "good"}])
    return ("train.batch_tokens", "32 tokens", "8")


def no_such_device(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    settings["train"]["device"] = "cuda:99"
    return ("train.device", "cuda:99")


def packing_that_cannot_be(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    config = json.loads((folder / "model/config.json").read_text("utf-8"))
    (folder / "model/config.json").write_text(json.dumps(config | {"chunk_size_feed_forward": 2}), encoding="utf-8")
    settings["train"]["packing"] = True
    return ("train.packing", "chunk_size_feed_forward")


USAGE = [
    unknown_key, unknown_section, wrong_value, unknown_task, unknown_model, option_of_another_task,
    length_beyond_the_model, unknown_metric, no_training_file, no_model, class_weight_of_no_label,
    budget_below_the_longest, no_such_device, packing_that_cannot_be,
]  # fmt: skip
FAILURES = [
    missing_file, empty_file, empty_eval_file, binary_file, wrong_encoding, broken_json, missing_column, missing_field,
    text_that_is_a_number, one_class, one_score, no_entity, no_second_text, broken_tags, span_outside,
    text_beyond_the_model, other_vocabulary, no_weights, no_tokenizer, damaged_config, truncated_weights,
    uninitialised_parameter, tensor_of_another_shape, hostile_pickle, folder_of_something_else, output_is_a_file,
    damage_above_the_limit, unseen_label, unseen_entity, label_not_in_the_table,
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "code"),
    [*((case, 2) for case in USAGE), *((case, 1) for case in FAILURES)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_train_refuses(run: Run, cli, no_device, no_socket, case, code):
    folder, settings = run
    words = case(folder, settings)
    path = write(run)
    before = sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))
    check_message(cli("train", path), code, *words)
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*")) == before, "something was left behind"
    assert not (folder / "exploded").exists()
    assert not Path("runs").exists() or not list(Path("runs").glob("**/.writing-*"))


@pytest.mark.parametrize(
    ("package", "override"), [("tensorboard", "train.tensorboard=true"), ("peft", "model.lora.r=2")]
)
def test_an_extra_that_is_missing_is_named(run: Run, cli, no_device, monkeypatch, package, override):
    monkeypatch.setitem(sys.modules, package, None)
    run[1]["model"] = {"name": run[1]["model"]}
    extra = "lora" if package == "peft" else package
    check_message(cli("train", write(run), override), 1, package, f'pip install "flagai[{extra}]"')
    assert not (run[0] / "run").exists()


def test_the_untouched_run_is_not_refused(run: Run, cli):
    """The table above proves something only if nothing but the case is wrong."""
    spoken = cli("train", write(run))
    assert (spoken.code, (run[0] / "run/final/model.safetensors").is_file()) == (0, True), spoken


def test_the_offered_encoding_works(run: Run, cli):
    folder, settings = run
    wrong_encoding(folder, settings)
    jsonl(folder / "dev.jsonl", ROWS[:4])
    spoken = cli("data", "check", write(run), "data.encoding=gb18030")
    assert spoken.code == 0, spoken


def test_the_offered_stride_works(run: Run, cli):
    folder, settings = run
    text_beyond_the_model(folder, settings)
    assert cli("train", write(run), "data.stride=16").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "no.yaml"], ["no.yaml"]),
        (["train", "{yaml}", "train.epoch=3"], ["train.epoch", "epochs"]),
        (["train", "{yaml}", "--train.epoch=3"], ["train.epoch", "epochs"]),
        (["train", "{yaml}", "--train.epochs"], ["train.epochs"]),
        (["train", "{yaml}", "nonsense"], ["nonsense"]),
        (["train", "{yaml}", "--resume", "--fresh"], ["--resume", "--fresh"]),
        (["data", "check", "{yaml}", "data.trian=x"], ["data.trian", "train"]),
    ],
)
def test_wrong_arguments(run: Run, cli, no_device, arguments, words):
    spoken = cli(*(argument.replace("{yaml}", str(write(run))) for argument in arguments))
    assert spoken.code == (1 if "no.yaml" in arguments else 2)
    assert all(word in spoken.err for word in words), spoken.err
    assert not (run[0] / "run").exists()


# -- a trained folder that was damaged --------------------------------------------------------------------------


def other_tokenizer(run: Path) -> tuple[str, ...]:
    """The same size, other ids: no index error would ever tell."""
    file = run / "final/tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    vocabulary["the"], vocabulary["a"] = vocabulary["a"], vocabulary["the"]
    file.write_text(json.dumps(content), encoding="utf-8")
    return ("tokenizer", "not the one the model was trained with", "task.json")


def final_without_weights(run: Path) -> tuple[str, ...]:
    (run / "final/model.safetensors").unlink()
    return ("no weights", "final")


def final_cut_off(run: Path) -> tuple[str, ...]:
    file = run / "final/model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return (str(file), "cut off")


def final_without_head(run: Path) -> tuple[str, ...]:
    _without_tensor(run / "final", "classifier.weight")
    return ("classifier.weight", "not in the checkpoint")


def final_with_lying_header(run: Path) -> tuple[str, ...]:
    file = run / "final/model.safetensors"
    file.write_bytes(struct.pack("<Q", 1 << 40) + file.read_bytes()[8:])
    return (str(file),)


def damaged_task(run: Path) -> tuple[str, ...]:
    (run / "final/task.json").write_text('{"version": 1,', encoding="utf-8")
    return (str(run / "final/task.json"), "damaged")


def task_of_the_future(run: Path) -> tuple[str, ...]:
    file = run / "final/task.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"version": 99}), encoding="utf-8")
    return (str(file), "version 99", "upgrade")


def task_without_state(run: Path) -> tuple[str, ...]:
    file = run / "final/task.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"state": {}}), encoding="utf-8")
    return (str(file), "damaged")


def task_with_other_labels(run: Path) -> tuple[str, ...]:
    file = run / "final/task.json"
    values = json.loads(file.read_text("utf-8"))
    values["state"]["labels"].append("mixed")
    file.write_text(json.dumps(values), encoding="utf-8")
    return ("another shape", "classifier")


def no_task(run: Path) -> tuple[str, ...]:
    (run / "final/task.json").unlink()
    return (str(run), "no trained model")


def pickled_weights_with_code(run: Path) -> tuple[str, ...]:
    (run / "final/model.safetensors").unlink()
    (run / "final/pytorch_model.bin").write_bytes(pickle.dumps({"weight": _Bomb(run / "exploded")}))
    return ("nothing of it was executed", "pytorch_model.bin")


DAMAGE = [
    other_tokenizer, final_without_weights, final_cut_off, final_without_head, final_with_lying_header, damaged_task,
    task_of_the_future, task_without_state, task_with_other_labels, no_task, pickled_weights_with_code,
]  # fmt: skip


@pytest.mark.parametrize("verb", ["predict", "eval"])
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda value: value.__name__)
def test_a_damaged_model_answers_nothing(trained, cli, no_device, no_socket, tmp_path, damage, verb):
    words = damage(trained)
    jsonl(tmp_path / "test.jsonl", ROWS)
    arguments = [trained, "good film"] if verb == "predict" else [trained, tmp_path / "test.jsonl"]
    spoken = cli(verb, *arguments)
    check_message(spoken, 1, *words)
    assert spoken.out == ""
    assert not (trained / "exploded").exists()


@pytest.mark.parametrize(
    ("name", "content", "place", "words"),
    [
        ("x.jsonl", '{"text": "good"}\n{"txt": "bad"}\n', ":2", ["text"]),
        ("x.jsonl", '{"text": "good"}\n{"text": 3}\n', ":2", ["text", "a string"]),
        ("x.csv", "a,b\n1,2\n", "", ["'a', 'b'"]),
        ("x.jsonl", "", "", ["empty"]),
        ("x.xlsx", "PK", "", [".xlsx"]),
    ],
)
def test_files_that_cannot_be_answered(trained, cli, tmp_path, name, content, place, words):
    (tmp_path / name).write_text(content, encoding="utf-8")
    spoken = cli("predict", trained, "--file", tmp_path / name, "-o", tmp_path / "out.jsonl")
    check_message(spoken, 1, f"{tmp_path / name}{place}", *words)
    assert not (tmp_path / "out.jsonl").exists()
    assert not list(tmp_path.glob(".writing-*"))


def test_no_file_to_answer(trained, cli, tmp_path):
    check_message(cli("predict", trained, "--file", tmp_path / "no.jsonl"), 1, str(tmp_path / "no.jsonl"))
    check_message(cli("predict", tmp_path / "nothing", "good"), 1, str(tmp_path / "nothing"))


def test_standard_input_that_is_no_json(trained, cli):
    check_message(cli("predict", trained, stdin='{"text": "good"}\n{"text": \n'), 1, "standard input:2")


def test_eval_names_a_label_that_training_did_not_know(trained, cli, tmp_path):
    jsonl(tmp_path / "test.jsonl", [*ROWS, {"text": "a film", "label": "god"}])
    check_message(cli("eval", trained, tmp_path / "test.jsonl"), 1, "test.jsonl:13", "unknown label 'god'")


# -- what only shows while a run is going -----------------------------------------------------------------------


def test_nan_loss(run: Run, cli):
    folder, settings = run
    settings["train"] |= {"learning_rate": 1e38, "max_grad_norm": None, "warmup_ratio": 0.0}
    check_message(cli("train", write(run)), 1, "the loss is nan at step", "learning_rate")
    assert not (folder / "run/final").exists()
    assert not list(folder.rglob(".writing-*"))
    assert json.loads((folder / "run/status.json").read_text("utf-8"))["status"] == "failed"
    again = cli("train", write(run), "train.learning_rate=1e-4", "--fresh")
    assert again.code == 0, again


@pytest.mark.parametrize("place", ["final", "best", "checkpoints/step-2", "run.yaml", "report.html", "log.jsonl"])
def test_disk_full(run: Run, cli, monkeypatch, place):
    """The disk fills up while `place` is written; once there is space again, the same command finishes the run."""
    folder, settings = run
    settings["train"]["save_steps"] = 2
    root = folder / "run"
    with monkeypatch.context() as patch:
        fill_disk(patch, root, place)
        spoken = cli("train", write(run))
    words = (
        ("No space left", "free some space") if place == "report.html" else ("disk is full", "the same command again")
    )
    check_message(spoken, 1, str(root), *words)
    assert not (root / "final").exists()
    assert not [*folder.rglob(".writing-*"), *folder.rglob("*.part")]
    if place == "run.yaml":
        assert not root.exists(), "a folder that the same command would take for somebody else's"
    again = cli("train", write(run))
    assert again.code == 0, again
    assert (root / "final/model.safetensors").is_file()


def fill_disk(patch: pytest.MonkeyPatch, root: Path, place: str) -> None:
    """Writing a file whose path speaks of `place` ends half-way, as on a full disk."""
    target = root / place
    writing = {str(target), f"{target}.part", str(target.with_name(f".writing-{target.name}"))}
    write_text, opened = Path.write_text, Path.open

    def full(path: Path) -> bool:
        return any(str(path) == start or str(path).startswith(f"{start}/") for start in writing)

    def text(self: Path, *arguments: Any, **options: Any) -> int:
        if full(self):
            write_text(self, "", encoding="utf-8")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return write_text(self, *arguments, **options)

    def open_(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if full(self) and "r" not in mode:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return opened(self, mode, *arguments, **options)

    patch.setattr(Path, "write_text", text)
    patch.setattr(Path, "open", open_)


def test_disk_full_for_answers(trained, cli, monkeypatch, tmp_path):
    jsonl(tmp_path / "in.jsonl", ROWS)
    with monkeypatch.context() as patch:
        fill_disk(patch, tmp_path, "out.jsonl")
        spoken = cli("predict", trained, "--file", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl")
    assert spoken.code == 1 and "Traceback" not in spoken.err
    assert "No space left" in spoken.err and str(tmp_path / "out.jsonl") in spoken.err
    assert not (tmp_path / "out.jsonl").exists() and not list(tmp_path.glob(".writing-*"))
