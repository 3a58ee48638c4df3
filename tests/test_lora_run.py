"""Adapters through the whole run: train, continue to the bit, predict from the folder, merge; no other base."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flagai import Predictor, Trainer, load_config
from flagai.auto import load_saved
from flagai.data.records import read_records
from flagai.errors import CheckpointError, OutputError
from flagai.models.lora import is_lora, merge_lora
from flagai.parallel.native import SingleProcess
from flagai.predict import loop
from flagai.train.callbacks import Callback
from flagai.train.interrupt import Interrupted

pytest.importorskip("peft")

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "stock": ("label", {"name": "classification"}),
    "cosine": ("label", {"name": "classification", "head": "cosine"}),
    "crf": ("entities", {"name": "ner-crf"}),
    "pointer": ("entities", {"name": "ner-gp", "inner_dim": 8}),
    "embedding": ("score", {"name": "embedding"}),
}
EVERY_CASE = pytest.mark.parametrize("name", CASES)


def config(name: str, data: Path, model: Path, output: Path, *overrides: str):
    values = {
        "model": {"name": str(model), "lora": {"r": 2, "alpha": 8, "dropout": 0.1}},
        "task": CASES[name][1],
        "data": {"train": str(data / "train.jsonl"), "eval": str(data / "dev.jsonl")},
        "train": {"epochs": 2, "batch_size": 6, "learning_rate": 0.01, "device": "cpu", "save_steps": 3},
        "output": str(output),
    }
    return load_config(values, overrides)


class StopAt(Callback):
    """Ctrl-C after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, state, row) -> None:
        if state.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def outputs(model: Any, task: Any, records: list[Any]) -> loop.Rows:
    strategy = SingleProcess(device="cpu")
    strategy.place(model)
    return loop.run(task, strategy.evaluate, [e for windows in task.encode_many(records) for e in windows])


@EVERY_CASE
def test_train_save_predict_merge(tiny_data, tiny_bert, tmp_path, cli, name):
    data = tiny_data(CASES[name][0])
    before = (tiny_bert / "model.safetensors").read_bytes()
    result = Trainer(config(name, data, tiny_bert, tmp_path / "run")).train()
    final = result.folder
    assert (final / "adapter_model.safetensors").is_file()
    assert not (final / "model.safetensors").exists()
    small = sum(file.stat().st_size for file in final.glob("*.safetensors"))
    assert small < len(before) / 4
    tensors = load_file(final / "adapter_model.safetensors")
    ups = [value for key, value in tensors.items() if key.endswith("lora_B.weight")]
    assert ups and all(value.abs().max() > 0 for value in ups), "an adapter was not trained"

    predictor = Predictor.from_folder(final, device="cpu")
    assert is_lora(predictor.model)
    records = read_records(data / "dev.jsonl", kind=predictor.task.kind)
    answers = list(predictor.predict_records(records))
    golds = [predictor.task.gold(record) for record in records]
    measured = {key: value for key, value in result.metrics["eval"].items() if key != "loss"}
    assert predictor.task.metrics(answers, golds) == pytest.approx(measured, abs=1e-9)

    merged_folder = tmp_path / "merged"
    spoken = cli("merge", tmp_path / "run", merged_folder)
    assert (spoken.code, spoken.err) == (0, "")
    assert not list(merged_folder.glob("adapter_*"))
    merged = load_saved(merged_folder)
    assert not is_lora(merged.model)
    apart = outputs(predictor.model, predictor.task, records)
    together = outputs(merged.model, merged.task, records)
    for one, other in zip(apart, together, strict=True):
        for key in one:
            np.testing.assert_allclose(other[key], one[key], atol=1e-6, rtol=1e-5, err_msg=key)
    again = list(Predictor.from_folder(merged_folder, device="cpu").predict_records(records))
    assert predictor.task.metrics(again, golds) == pytest.approx(measured, abs=1e-6)
    assert (tiny_bert / "model.safetensors").read_bytes() == before

    spoken = cli("merge", tmp_path / "run", merged_folder)
    assert spoken.code == 1 and "exists already" in spoken.err
    spoken = cli("merge", merged_folder, tmp_path / "twice")
    assert spoken.code == 1 and "no adapters" in spoken.err and not (tmp_path / "twice").exists()


@EVERY_CASE
def test_a_run_continued_after_ctrl_c_is_bit_equal(tiny_data, tiny_bert, tmp_path, name):
    data = tiny_data(CASES[name][0])
    Trainer(config(name, data, tiny_bert, tmp_path / "whole")).train()
    with pytest.raises(Interrupted):
        Trainer(config(name, data, tiny_bert, tmp_path / "cut"), callbacks=[StopAt(5)]).train()
    Trainer(config(name, data, tiny_bert, tmp_path / "cut")).train()
    files = sorted(path.name for path in (tmp_path / "whole/final").glob("*.safetensors"))
    assert files == sorted(path.name for path in (tmp_path / "cut/final").glob("*.safetensors"))
    for file in files:
        left, right = load_file(tmp_path / "whole/final" / file), load_file(tmp_path / "cut/final" / file)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), file


def test_only_adapters_and_head_are_trained(tiny_data, tiny_bert, tmp_path):
    result = Trainer(config("stock", tiny_data("label"), tiny_bert, tmp_path / "run")).train()
    model = merge_lora(load_saved(result.folder).model)
    theirs = load_file(tiny_bert / "model.safetensors")
    state = model.state_dict()
    changed = sorted(key for key in state if key in theirs and not torch.equal(state[key], theirs[key]))
    assert changed and all(".attention." in key and key.endswith("weight") for key in changed)
    report = json.loads((tmp_path / "run/report.json").read_text("utf-8"))
    assert 0 < report["model_info"]["trainable"] < report["model_info"]["parameters"] / 4


def test_another_base_is_refused(tiny_data, tiny_bert, tmp_path, cli):
    base = tmp_path / "base"
    shutil.copytree(tiny_bert, base)
    data = tiny_data("label")
    result = Trainer(config("stock", data, base, tmp_path / "run")).train()
    state = load_file(base / "model.safetensors")
    key = next(key for key in state if key.endswith("query.weight"))
    state[key][0, 0] += 1
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="other weights"):
        Predictor.from_folder(result.folder)
    spoken = cli("predict", tmp_path / "run", "good film")
    assert spoken.code == 1 and "other weights" in spoken.err and "Traceback" not in spoken.err
    spoken = cli("merge", tmp_path / "run", tmp_path / "merged")
    assert spoken.code == 1 and not (tmp_path / "merged").exists()
    shutil.rmtree(base)
    spoken = cli("predict", tmp_path / "run", "good film")
    assert spoken.code == 1 and str(base) in spoken.err and "base_model_name_or_path" in spoken.err


def test_other_adapter_settings_are_another_run(tiny_data, tiny_bert, tmp_path):
    data = tiny_data("label")
    with pytest.raises(Interrupted):
        Trainer(config("stock", data, tiny_bert, tmp_path / "run"), callbacks=[StopAt(4)]).train()
    with pytest.raises(OutputError, match=r"model\.lora\.r: 2 there, 4 now"):
        Trainer(config("stock", data, tiny_bert, tmp_path / "run", "model.lora.r=4")).train()
