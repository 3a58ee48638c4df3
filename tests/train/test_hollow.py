"""A model without numbers is the model of its folder in everything else, and is refused where it would stay empty."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from flagai import AutoLoader
from flagai.auto import Loaded, describe_folder, load_saved, save_folder
from flagai.train.hollow import hollow_model, parameters_on_meta


def saved(tiny_bert: Path, folder: Path, task: str, **options: Any) -> tuple[Loaded, Path]:
    loader = AutoLoader(task, tiny_bert, **options)
    save_folder(folder, Loaded(loader.get_model(), loader.get_tokenizer(), loader.get_task()))
    return load_saved(folder), folder


@pytest.mark.parametrize(
    ("task", "options"),
    [("classification", {"class_num": 3}), ("ner-crf", {"labels": ["PER", "LOC"]}), ("seq2seq", {})],
)
def test_it_has_the_names_shapes_and_description_of_the_whole_model(tiny_bert, tmp_path, task, options):
    whole, folder = saved(tiny_bert, tmp_path / "whole", task, **options)
    hollow = hollow_model(folder, whole.task, whole.tokenizer)
    assert hollow is not None
    assert all(parameter.is_meta for parameter in hollow.parameters())
    shapes = [{n: (tuple(p.shape), p.requires_grad) for n, p in m.named_parameters()} for m in (whole.model, hollow)]
    assert shapes[0] == shapes[1]
    buffers = [dict(m.named_buffers()) for m in (whole.model, hollow)]
    assert buffers[0].keys() == buffers[1].keys()
    assert all(torch.equal(value, buffers[1][name]) for name, value in buffers[0].items())
    for name, model in (("a", whole.model), ("b", hollow)):
        (tmp_path / name).mkdir()
        describe_folder(tmp_path / name, Loaded(model, whole.tokenizer, whole.task))
    assert json.loads((tmp_path / "a/config.json").read_text()) == json.loads((tmp_path / "b/config.json").read_text())


def test_a_folder_that_would_leave_something_empty_gives_none(tiny_bert, tmp_path):
    whole, folder = saved(tiny_bert, tmp_path / "whole", "classification", class_num=3)
    tensors = load_file(folder / "model.safetensors")
    poor = tmp_path / "poor"
    shutil.copytree(folder, poor)
    tensors.pop(next(name for name in tensors if "query.weight" in name))
    save_file(tensors, poor / "model.safetensors", metadata={"format": "pt"})
    assert hollow_model(folder, whole.task, whole.tokenizer) is not None
    assert hollow_model(poor, whole.task, whole.tokenizer) is None


def test_modules_are_made_as_ever_afterwards():
    with parameters_on_meta():
        inside = nn.Linear(2, 3)
    assert inside.weight.is_meta and nn.Linear(2, 3).weight.device.type == "cpu"
