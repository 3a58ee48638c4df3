"""`flagai ckpt` as the shell calls it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flagai.models.glm.reading import read_weights

GLM = Path(__file__).parents[1] / "fixtures" / "glm"
Cli = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(GLM / "ds_MP2", tmp_path / "original"))
    shutil.copyfile(GLM / "config.json", folder / "config.json")
    return folder


def test_convert_there_and_back(cli: Cli, tmp_path: Path, folder: Path) -> None:
    spoken = cli("ckpt", "convert", folder, tmp_path / "ours", "--shards", "2", "--dtype", "fp16")
    assert spoken.code == 0, spoken.err
    assert spoken.out.splitlines()[0] == f"thudm -> flagai: {tmp_path / 'ours'}"
    assert "53 tensors, 272,384 parameters, float16" in spoken.out
    assert "model-00002-of-00002.safetensors" in spoken.out
    assert (
        cli("ckpt", "convert", tmp_path / "ours", tmp_path / "back", "--layout", "thudm", "--dtype", "fp32").code == 0
    )
    words = dict(read_weights(tmp_path / "back"))["glm.word_embeddings.weight"]
    truth = torch.from_numpy(np.load(GLM / "weights.npz")["word_embeddings.weight"])
    assert torch.equal(words, truth.half().float())


def test_inspect_and_ls(cli: Cli, folder: Path) -> None:
    shown = cli("ckpt", "inspect", folder)
    assert shown.code == 0
    lines = {line.split("  ")[0]: line.split("  ")[-1] for line in shown.out.splitlines()}
    assert lines["layout"] == "thudm" and lines["parameters"] == "272,384" and lines["model-parallel parts"] == "2"
    told = json.loads(cli("ckpt", "inspect", folder, "--json").out)
    assert told["attention heads"] == 4 and told["files"] == [f"mp_rank_0{rank}_model_states.pt" for rank in range(2)]
    rows = cli("ckpt", "ls", folder).out.splitlines()
    assert len(rows) == 53 and rows[0].split() == ["word_embeddings.weight", "1000", "×", "64", "float32"]


def test_an_iteration_without_what_names_it(cli: Cli, tmp_path: Path, folder: Path) -> None:
    for tracker in ("latest_checkpointed_iteration.txt", "latest", "latest_iteration.txt"):
        (folder / tracker).unlink(missing_ok=True)
    lost = cli("ckpt", "inspect", folder)
    assert lost.code == 1 and "holds no weights" in lost.err and f"itself: {folder / '100'}" in lost.err
    told = json.loads(cli("ckpt", "inspect", folder / "100", "--json").out)
    assert told["layout"] == "thudm" and told["attention heads"] == 4
    (folder / "vocab.txt").write_text("[PAD]\n")
    done = cli("ckpt", "convert", folder / "100", tmp_path / "ours")
    assert done.code == 0, done.err
    assert (tmp_path / "ours" / "vocab.txt").is_file() and (tmp_path / "ours" / "config.json").is_file()
    (folder / "config.json").unlink()
    unnamed = cli("ckpt", "inspect", folder)
    assert unnamed.code == 1 and f"itself: {folder / '100'}" in unnamed.err


def test_mistakes_are_messages(cli: Cli, tmp_path: Path, folder: Path) -> None:
    wrong = cli("ckpt", "convert", folder, tmp_path / "x", "--layout", "thudm", "--shards", "3")
    assert wrong.code == 2 and "3 shards do not divide" in wrong.err and not (tmp_path / "x").exists()
    assert "one of: 1, 2, 4: each" in wrong.err and "writing" not in wrong.err
    none = cli("ckpt", "convert", folder, tmp_path / "x", "--layout", "thudm", "--shards", "0")
    assert none.code == 2 and "one of: 1, 2, 4: each" in none.err
    whole = cli("ckpt", "convert", folder, tmp_path / "x", "--shards", "54")
    assert whole.code == 2 and "1 to 53: each file" in whole.err and "writing" not in whole.err
    assert cli("ckpt", "convert", folder, tmp_path / "x", "--layout", "thud").err.count("did you mean 'thudm'?") == 1
    nothing = cli("ckpt", "inspect", tmp_path / "nowhere")
    assert nothing.code == 1 and "no folder" in nothing.err
    file = cli("ckpt", "inspect", folder / "config.json")
    assert file.code == 1 and "a file, not a folder" in file.err and f"lies in: {folder}" in file.err
    (folder / "100" / "mp_rank_01_model_states.pt").unlink()
    missing = cli("ckpt", "inspect", folder)
    assert missing.code == 1 and "1 of 2 model-parallel shards are here" in missing.err
    assert "Traceback" not in wrong.err + nothing.err + missing.err
