"""`flagai ckpt verify | ls | convert | merge` on what a run leaves behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flagai import Trainer, load_config
from flagai.auto import load_saved

Cli = Callable[..., Any]


def trained(reviews: Path, model: Path, output: Path, **more: Any) -> Path:
    values: dict[str, Any] = {
        "model": {"name": str(model), **more},
        "task": {"name": "classification", "pooling": "mean"},
        "data": {"train": str(reviews / "train.jsonl"), "eval": str(reviews / "dev.jsonl")},
        "train": {"max_steps": 4, "save_steps": 2, "eval_steps": 4, "batch_size": 8, "device": "cpu"},
        "output": str(output),
    }
    Trainer(load_config(values)).train()
    return output


@pytest.fixture(scope="module")
def runs(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = reviews = tmp_path_factory.mktemp("runs")
    rows = [{"text": f"a {word} film", "label": word} for word in ("good", "bad")] * 8
    for name in ("train", "dev"):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "whole": trained(reviews, tiny_bert, root / "whole"),
        "lora": trained(reviews, tiny_bert, root / "lora", lora={"r": 2}),
    }


@pytest.fixture
def run(runs: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs["whole"], tmp_path / "run"))


def test_verify_reads_every_byte(cli: Cli, run: Path) -> None:
    fine = cli("ckpt", "verify", run)
    assert fine.code == 0, fine.err
    lines = fine.out.splitlines()
    assert [line.split()[0] for line in lines] == ["step-2", "step-4", "best", "final"]
    assert "every byte as written" in lines[0] and "sizes fit" in lines[2]
    file = run / "checkpoints/step-4/train_state/optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 16
    file.write_bytes(content)
    bad = cli("ckpt", "verify", run)
    assert bad.code == 1
    assert "step-4" in bad.out and "DAMAGED" in bad.out and "optimizer.safetensors is not what was written" in bad.out
    told = json.loads(cli("ckpt", "verify", run / "checkpoints/step-4", run / "best", "--json").out)
    assert [bool(item["wrong"]) for item in told] == [True, False]
    assert cli("ckpt", "verify", run / "checkpoints/step-2").code == 0
    assert cli("ckpt", "verify", run / "nowhere").code == 1


def test_ls_shows_a_run(cli: Cli, run: Path) -> None:
    (run / "checkpoints/step-2/config.json").unlink()
    lines = cli("ckpt", "ls", run).out.splitlines()
    assert lines[0].split()[:3] == ["name", "size", "written"]
    assert lines[1].startswith("step-2") and "damaged: config.json is missing" in lines[1]
    assert lines[2].startswith("step-4") and "single × 1" in lines[2] and "fp32" in lines[2]
    told = json.loads(cli("ckpt", "ls", run, "--json").out)
    assert [item["name"] for item in told] == ["step-2", "step-4", "best", "final"]
    assert told[1]["step"] == 4 and told[1]["bytes"] > 10_000 and told[1]["wrong"] == ""
    tensors = cli("ckpt", "ls", run / "final").out
    assert "embeddings.word_embeddings.weight" in tensors


def test_convert_keeps_task_and_head(cli: Cli, run: Path, tmp_path: Path) -> None:
    source = run / "checkpoints/step-4"
    done = cli("ckpt", "convert", source, tmp_path / "half", "--dtype", "bf16", "--shards", "3")
    assert done.code == 0, done.err
    assert "model-00003-of-00003.safetensors" in done.out and "bfloat16" in done.out
    half, whole = load_saved(tmp_path / "half").model, load_saved(source).model
    for (name, one), (_, other) in zip(half.named_parameters(), whole.named_parameters(), strict=True):
        expected = other if name.startswith("head.") else other.bfloat16().float()
        assert torch.equal(one.float(), expected), name
    assert not (tmp_path / "half/train_state").exists() and not (tmp_path / "half/MANIFEST.json").exists()
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"
    back = cli("ckpt", "convert", tmp_path / "half", tmp_path / "one", "--shards", "1", "--dtype", "fp32")
    assert back.code == 0 and [p.name for p in (tmp_path / "one").glob("model*")] == ["model.safetensors"]
    assert "1 to" in cli("ckpt", "convert", source, tmp_path / "many", "--shards", "999").err
    assert "exists already" in cli("ckpt", "convert", source, tmp_path / "one").err
    assert "did you mean 'bf16'" in cli("ckpt", "convert", source, tmp_path / "x", "--dtype", "bf").err


def test_convert_to_the_form_of_torch(cli: Cli, run: Path, tmp_path: Path) -> None:
    from torch.distributed import checkpoint as torch_checkpoint

    source = run / "checkpoints/step-4"
    done = cli("ckpt", "convert", source, tmp_path / "dcp", "--layout", "torch-dcp")
    assert done.code == 0, done.err
    weights = load_file(source / "model.safetensors")
    moments = load_file(source / "train_state/optimizer.safetensors")
    name = next(iter(weights))
    entry = next(entry for entry in moments if entry.endswith("/exp_avg"))
    found = {
        f"model.{name}": torch.zeros_like(weights[name]),
        f"optimizer.{entry.replace('/', '.')}": torch.zeros_like(moments[entry]),
    }
    head = load_file(source / "head.safetensors")
    found |= {f"model.head.{name}": torch.zeros_like(value) for name, value in head.items()}
    torch_checkpoint.load(found, checkpoint_id=str(tmp_path / "dcp"), no_dist=True)
    assert head and all(torch.equal(found[f"model.head.{name}"], value) for name, value in head.items())
    assert torch.equal(found[f"model.{name}"], weights[name])
    assert torch.equal(found[f"optimizer.{entry.replace('/', '.')}"], moments[entry])


def test_merge_gives_one_plain_model(cli: Cli, run: Path, tmp_path: Path) -> None:
    done = cli("ckpt", "merge", run, "--output", tmp_path / "plain")
    assert done.code == 0, done.err
    assert "step-4" in done.err
    assert not (tmp_path / "plain/train_state").exists()
    one, two = (load_saved(run / f"checkpoints/step-{step}").model.state_dict() for step in (2, 4))
    assert all(
        torch.equal(value, two[name]) for name, value in load_saved(tmp_path / "plain").model.state_dict().items()
    )
    several = [run / f"checkpoints/step-{step}" for step in (2, 4)]
    assert "mean of 2" in cli("ckpt", "merge", *several, "-o", tmp_path / "mean").out
    for name, value in load_saved(tmp_path / "mean").model.state_dict().items():
        expected = ((one[name].double() + two[name].double()) / 2).float() if value.is_floating_point() else one[name]
        assert torch.equal(value, expected), name
    assert any(not torch.equal(one[name], two[name]) for name in one)
    assert "exists already" in cli("ckpt", "merge", run, "-o", tmp_path / "mean").err
    assert "no such folder" in cli("ckpt", "merge", run / "nothing", "-o", tmp_path / "x").err


def test_merge_adds_adapters_to_their_base(cli: Cli, runs: dict[str, Path], tmp_path: Path) -> None:
    from flagai.models.lora import merge_lora

    checkpoint = runs["lora"] / "checkpoints/step-4"
    done = cli("ckpt", "merge", checkpoint, "--output", tmp_path / "plain", "--offline")
    assert done.code == 0, done.err
    found = load_saved(tmp_path / "plain").model.state_dict()
    expected = merge_lora(load_saved(checkpoint).model).state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert not (tmp_path / "plain/adapter_model.safetensors").exists()
    odd = cli("ckpt", "merge", checkpoint, runs["whole"] / "checkpoints/step-4", "-o", tmp_path / "mean", "--offline")
    assert odd.code == 0  # two ways of training one model give models of one kind
    shutil.copytree(runs["whole"] / "final", tmp_path / "other")
    (tmp_path / "other/model.safetensors").unlink()
    from safetensors.torch import save_file

    save_file({"something": torch.zeros(2)}, tmp_path / "other/model.safetensors")
    wrong = cli("ckpt", "merge", runs["whole"] / "final", tmp_path / "other", "-o", tmp_path / "never")
    assert wrong.code == 1 and "another model" in wrong.err and not (tmp_path / "never").exists()


def test_heads_of_other_labels_are_not_averaged(cli: Cli, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "final", tmp_path / "other")
    head = load_file(tmp_path / "other/head.safetensors")
    from safetensors.torch import save_file

    save_file({name: torch.cat([value, value]) for name, value in head.items()}, tmp_path / "other/head.safetensors")
    wrong = cli("ckpt", "merge", run / "final", tmp_path / "other", "-o", tmp_path / "never")
    assert wrong.code == 1 and "its head is another one" in wrong.err and not (tmp_path / "never").exists()
