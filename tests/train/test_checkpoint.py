"""Checkpoints of one process: exact, whole or not there, and loud about what does not fit."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from checkpoint_runs import EXTRA, Run, same
from safetensors.torch import load_file, save_file

from flagai.errors import CheckpointError, OutputError
from flagai.train import checkpoint
from flagai.train.checkpoint import Score
from flagai.train.files import read_json, sha256, write_json
from flagai.train.state import TrainState


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of checkpoints of a run after two and four steps; copy it before you harm it."""
    root = tmp_path_factory.mktemp("saved") / "checkpoints"
    run = Run()
    for _ in range(2):
        run.steps(2)
        run.save(root)
    return root


@pytest.fixture
def root(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("family", ["bert", "headed", "gpt2"])
def test_a_loaded_run_goes_on_bit_for_bit(tmp_path: Path, family: str, meta: bool, asynchronous: bool) -> None:
    run = Run(family)
    run.steps(2)
    run.save(tmp_path / "c", asynchronous=asynchronous)
    expected = run.steps(3)
    other = Run(family, meta=meta)
    if not meta:
        other.steps(1)
    other.load(tmp_path / "c")
    assert other.state.step == 2
    assert other.steps(3) == expected
    assert same(other.weights(), run.weights())
    assert same(other.moments(), run.moments())


def test_the_manifest_says_what_each_file_holds(root: Path) -> None:
    newest = root / "step-4"
    for name, entry in read_json(newest / "MANIFEST.json")["files"].items():
        path = newest / name
        assert (entry["bytes"], entry["sha256"]) == (path.stat().st_size, sha256(path))
        tensors = load_file(path) if path.suffix == ".safetensors" else {}
        assert {n: shape for n, (_, *shape) in entry.get("tensors", {}).items()} == {
            n: list(t.shape) for n, t in tensors.items()
        }
        assert {dtype for dtype, *_ in entry.get("tensors", {}).values()} <= {"F32", "U8"}


def test_what_is_saved_in_the_background_is_the_step_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Training goes on, and changes every number, before a single one is written."""
    run, go = Run(), threading.Event()
    run.steps(2)
    at_once = run.save(tmp_path / "at once")
    pwrite = os.pwrite

    def later(*arguments: object) -> int:
        assert go.wait(60)
        return pwrite(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "pwrite", later)
    saver = run.saver(tmp_path / "behind", asynchronous=True)
    folder = saver.save(run.state, EXTRA)
    run.steps(2)
    assert not folder.exists()
    go.set()
    saver.wait()
    for path in at_once.rglob("*.safetensors"):
        assert path.read_bytes() == (folder / path.relative_to(at_once)).read_bytes()
    run.steps(1)
    saver.save(run.state, EXTRA)  # from memory that is used again
    saver.wait()
    again = run.save(tmp_path / "at once")
    ours, theirs = (read_json(f / "MANIFEST.json") for f in (again, saver._root / again.name))
    assert ours == theirs


def test_an_error_in_the_background_is_raised_and_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = Run()
    run.steps(1)
    saver = run.saver(tmp_path, asynchronous=True)
    saver.save(run.state, EXTRA)
    saver.wait()
    run.steps(1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        saver.save(run.state, EXTRA)
        with pytest.raises(OutputError, match="disk is full"):
            saver.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    saver.wait()  # said once
    saver.save(run.state, EXTRA)
    saver.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-2"]


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["pwrite", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_save_that_fails_leaves_what_was_there(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    def fails(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    run = Run()
    run.load(root)
    run.steps(1)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(os, name, fails)
        with pytest.raises(OutputError, match="disk is full" if code == errno.ENOSPC else "cannot be written"):
            run.save(root)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    run.save(root)
    assert checkpoint.newest(root, print).step == 5  # type: ignore[union-attr]


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """On a file system of 150 kB."""
    place = tmp_path / "small"
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size=150k none {place} 2>/dev/null"):
        pytest.skip("no right to mount a file system")
    try:
        with pytest.raises(OutputError, match="disk is full"):
            Run().save(place / "checkpoints")
        assert list((place / "checkpoints").iterdir()) == []
    finally:
        os.system(f"umount {place}")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        Run().save(tmp_path / "file" / "checkpoints")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "train_state/optimizer.safetensors"])
def test_one_flipped_byte_is_a_named_error(root: Path, file: str) -> None:
    path = root / "step-4" / file
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{file} is not what was written: sha256"):
        checkpoint.verify(root / "step-4")
    heard: list[str] = []
    run = Run()
    run.load(root, heard.append)
    assert run.state.step == 2
    assert heard and "step-4" in heard[0] and file in heard[0]


def test_what_is_missing_or_cut_is_named(root: Path) -> None:
    (root / "step-4/train_state/random.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"random\.safetensors is missing"):
        checkpoint.verify(root / "step-4")
    model = root / "step-2/model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"bytes instead of"):
        checkpoint.verify(root / "step-2")
    heard: list[str] = []
    assert checkpoint.newest(root, heard.append) is None
    assert len(heard) == 2


def test_a_checkpoint_of_a_newer_flagai_is_left_alone(root: Path) -> None:
    manifest = read_json(root / "step-4/MANIFEST.json")
    write_json(root / "step-4/MANIFEST.json", {**manifest, "version": 99})
    heard: list[str] = []
    assert checkpoint.newest(root, heard.append).step == 2  # type: ignore[union-attr]
    assert "newer flagai" in heard[0]


def test_the_form_of_flagai_before_is_read(root: Path) -> None:
    """Manifests of version 1 say less, and moments lie in one file as they do now."""
    path = root / "step-4/MANIFEST.json"
    manifest = {k: v for k, v in read_json(path).items() if k not in ("processes", "packages")}
    state = read_json(root / "step-4/train_state/state.json")
    state.pop("frozen")
    write_json(root / "step-4/train_state/state.json", state)
    written = root / "step-4/train_state/state.json"
    manifest["files"]["train_state/state.json"] = {"bytes": written.stat().st_size, "sha256": sha256(written)}
    write_json(path, {**manifest, "version": 1})
    found = checkpoint.newest(root, print)
    assert found is not None and found.step == 4
    assert found.differences(checkpoint.layout() | EXTRA) == []
    Run().load(root)


def test_differences_are_named() -> None:
    there = checkpoint.Checkpoint(Path("x"), 1, {**checkpoint.layout(), **EXTRA, "threads": 7, "processes": 4})
    assert there.differences(checkpoint.layout() | EXTRA) == [
        f"threads 7 there, {torch.get_num_threads()} now",
        "processes 4 there, 1 now",
    ]


def test_threads_are_those_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now, heard = torch.get_num_threads(), []
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    try:
        checkpoint.restore_threads(checkpoint.Checkpoint(Path("x"), 1, {"threads": 3}), heard.append)
        assert torch.get_num_threads() == 3
        checkpoint.restore_threads(checkpoint.Checkpoint(Path("x"), 1, {"threads": 64}), heard.append)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(now)
    assert "3 threads" in heard[0] and "64 threads" in heard[1] and "8 cores" in heard[1]


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("one layer", ["tensors of the checkpoint have no place", "encoder.layer.1"]),
        ("three heads", ["have another shape", "32", "48"]),
        ("gpt2", ["would not be filled", "wte"]),
    ],
)
def test_a_checkpoint_of_another_model_changes_nothing(saved: Path, family: str, words: list[str]) -> None:
    run = Run(family)
    before = run.weights()
    with pytest.raises(CheckpointError, match="another model") as caught:
        run.load(saved)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert same(run.weights(), before)


def test_large_models_lie_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flagai.train.checkpoints import arrangement

    monkeypatch.setattr(arrangement, "MOST_WEIGHTS", 40_000)
    monkeypatch.setattr(arrangement, "MOST_MOMENTS", 60_000)
    run = Run()
    run.steps(1)
    folder = run.save(tmp_path)
    names = {path.name for path in folder.rglob("*.safetensors")}
    assert "model-00002-of-00005.safetensors" in names and "optimizer-00001-of-00006.safetensors" in names, names
    assert "model.safetensors" not in names
    other = Run(meta=True)
    other.load(tmp_path)
    assert same(other.moments(), run.moments())
    from transformers import BertForMaskedLM

    theirs = dict(BertForMaskedLM.from_pretrained(folder).named_parameters())
    assert same({name: p.detach() for name, p in theirs.items()}, run.weights())
    (folder / "model-00002-of-00005.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00005\.safetensors is missing"):
        checkpoint.verify(folder)


@pytest.mark.parametrize(
    "family", ["glm", "bert", "classifier", "roberta", "modernbert", "gpt2", "opt", "t5", "llama", "headed"]
)
def test_a_model_folder_is_the_one_that_transformers_would_write(tmp_path: Path, family: str) -> None:
    run = Run(family)
    run.model.save_pretrained(tmp_path / "theirs")
    checkpoint.write_model(run.strategy, tmp_path / "ours", run.describe)
    theirs = {path.name for path in (tmp_path / "theirs").iterdir()}
    assert {path.name for path in (tmp_path / "ours").iterdir()} == theirs
    for name in theirs:
        one, other = tmp_path / "ours" / name, tmp_path / "theirs" / name
        if name.endswith(".json"):
            assert one.read_bytes() == other.read_bytes()
        else:
            assert same(load_file(one), load_file(other))


def test_a_model_folder_replaces_an_older_one_or_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, best = Run(), tmp_path / "best"
    checkpoint.write_model(run.strategy, best, run.describe)
    old = (best / "model.safetensors").read_bytes()
    run.steps(1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OutputError):
            checkpoint.write_model(run.strategy, best, run.describe)
    assert (best / "model.safetensors").read_bytes() == old
    checkpoint.write_model(run.strategy, best, run.describe)
    assert (best / "model.safetensors").read_bytes() != old
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_the_best_checkpoints_stay(tmp_path: Path) -> None:
    run = Run()
    saver = run.saver(tmp_path, keep_last=1, keep_best=2)
    wanted = []
    for value in (0.5, 0.9, 0.7, 0.1, 0.7, float("nan"), 0.8):
        run.state.step += 1
        score = Score(metric="f1", value=value)
        wanted.append(saver.wants(score))
        saver.save(run.state, EXTRA, score=score)
    assert wanted == [True, True, True, False, False, False, True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-2", "step-7"]
    run.state.step += 1
    saver.save(run.state, EXTRA)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-2", "step-7", "step-8"]
    loss = Score(metric="loss", value=0.2, lower_is_better=True)
    assert saver.wants(loss)
    assert loss.height < Score(metric="loss", value=0.1, lower_is_better=True).height


def test_only_the_last_stay_without_keep_best(tmp_path: Path) -> None:
    run = Run()
    saver = run.saver(tmp_path, keep_last=2)
    for value in (0.9, 0.5, 0.4):
        run.state.step += 1
        saver.save(run.state, EXTRA, score=Score(metric="f1", value=value))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-2", "step-3"]
    assert not saver.wants(Score(metric="f1", value=1.0))


def test_what_was_frozen_and_what_is_is_said(tmp_path: Path) -> None:
    run = Run()
    run.model.bert.embeddings.requires_grad_(False)  # type: ignore[union-attr]
    run.steps(1)
    run.save(tmp_path)
    heard: list[str] = []
    Run().load(tmp_path, heard.append)
    assert len(heard) == 1 and "were frozen" in heard[0] and "bert.embeddings" in heard[0]
    frozen = Run()
    frozen.model.bert.encoder.requires_grad_(False)  # type: ignore[union-attr]
    frozen.model.bert.embeddings.requires_grad_(False)  # type: ignore[union-attr]
    frozen.load(tmp_path, heard.append)
    assert len(heard) == 2 and "left behind" in heard[1] and "bert.encoder" in heard[1]


def test_weights_in_fewer_bits_are_taken_from_their_masters(root: Path) -> None:
    """A checkpoint of weights in bf16 with masters in fp32 fills a model in fp32 without loss."""
    folder = root / "step-4"
    weights = load_file(folder / "model.safetensors")
    save_file({name: value.bfloat16() for name, value in weights.items()}, folder / "model.safetensors")
    moments = load_file(folder / "train_state/optimizer.safetensors")
    masters = {f"{name}/master": value for name, value in weights.items() if f"{name}/exp_avg" in moments}
    save_file({**moments, **masters}, folder / "train_state/optimizer.safetensors")
    there = checkpoint.Checkpoint(folder, 4, read_json(folder / "MANIFEST.json"))
    run = Run()
    checkpoint.load(there, run.strategy)
    found = run.weights()
    assert all(same({"x": found[name.removesuffix("/master")]}, {"x": value}) for name, value in masters.items())
    assert "master" not in {key for values in run.strategy._optimizer.state.values() for key in values}  # type: ignore


def test_no_pickle_and_no_half_json(saved: Path) -> None:
    kinds = {path.suffix for path in (saved / "step-4").rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"}
    manifest = read_json(saved / "step-4/MANIFEST.json")
    assert manifest["version"] == checkpoint.VERSION and manifest["step"] == 4
    assert {"torch", "threads", "machine", "processes", "packages", *EXTRA} <= manifest.keys()
    assert TrainState.from_json(read_json(saved / "step-4/train_state/state.json")["train"]).step == 4
    assert json.loads((saved / "step-4/config.json").read_text())["architectures"] == ["BertForMaskedLM"]


def test_the_best_ones_are_so_by_one_metric(tmp_path: Path) -> None:
    """A continued run may choose by another metric; values of the old one say nothing then, nor does damage."""
    run = Run()
    saver = run.saver(tmp_path, keep_last=1, keep_best=1)
    run.state.step = 1
    saver.save(run.state, EXTRA, score=Score(metric="accuracy", value=0.9))
    again = run.saver(tmp_path, keep_last=1, keep_best=1)
    for value in (0.3, 0.5, 0.6):
        run.state.step += 1
        again.save(run.state, EXTRA, score=Score(metric="loss", value=value, lower_is_better=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-2", "step-4"]
    file = tmp_path / "step-2/MANIFEST.json"
    for score in ({"metric": "loss", "value": "low"}, {"something": 1}, 7):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"score": score}))
        assert again.wants(Score(metric="loss", value=0.9, lower_is_better=True)) is False


def test_a_manifest_names_nothing_outside(root: Path) -> None:
    file = root / "step-2/MANIFEST.json"
    manifest = json.loads(file.read_text())
    for name in ("../step-1/config.json", str(root / "step-1/config.json")):
        changed = manifest["files"] | {name: {"bytes": 1, "sha256": ""}}
        file.write_text(json.dumps(manifest | {"files": changed}))
        with pytest.raises(CheckpointError, match="outside of the folder"):
            checkpoint.verify(root / "step-2")
