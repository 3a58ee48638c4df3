"""Model folders: what is in them, and every way in which they can be broken or hostile."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flagai.errors import CheckpointError, MissingFileError, ModelError
from flagai.models import pickles
from flagai.models.checkpoints import (
    fingerprint,
    inspect,
    layout_of,
    read_state_dict,
    tokenizer_fits,
    verify_weights,
    weights_sha256,
)
from flagai.models.tokenizers import character_tokenizer

STATE = {"encoder.weight": torch.arange(6.0).reshape(2, 3), "encoder.bias": torch.ones(3, dtype=torch.float16)}


class Bomb:
    """Unpickled, it would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(STATE, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_safetensors_are_inspected_without_reading_them(model: Path) -> None:
    info = inspect(model)
    assert info.format == "safetensors" and info.layout == "huggingface"
    assert info.shapes == {"encoder.weight": (2, 3), "encoder.bias": (3,)}
    assert info.num_parameters == 9
    assert same(read_state_dict(model), STATE)


def test_no_folder_and_no_weights(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        inspect(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no weights \(only config.json\)"):
        inspect(tmp_path)
    (tmp_path / "tf_model.h5").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="another framework"):
        verify_weights(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1])
def test_truncated_safetensors(model: Path, keep: int) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="cut off or damaged"):
        verify_weights(model)


def test_too_long_safetensors(model: Path) -> None:
    with open(model / "model.safetensors", "ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match="its header promises"):
        inspect(model)


def rewrite_header(file: Path, change: dict) -> None:
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["encoder.weight"].update(change)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def test_a_header_that_lies_about_a_shape(model: Path) -> None:
    rewrite_header(model / "model.safetensors", {"shape": [2, 4]})
    with pytest.raises(CheckpointError, match=r"'encoder.weight' has the shape \[2, 4\] of F32 but 24 bytes"):
        inspect(model)


def test_a_header_that_is_no_header(model: Path) -> None:
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"[1]\n")
    with pytest.raises(CheckpointError, match="no list of tensors"):
        inspect(model)


def test_wrong_and_missing_shapes_against_what_is_expected(model: Path) -> None:
    verify_weights(model, {"encoder.weight": (2, 3)})
    with pytest.raises(CheckpointError, match=r"encoder.weight is \[2, 3\], not \[3, 2\]"):
        verify_weights(model, {"encoder.weight": (3, 2)})
    with pytest.raises(CheckpointError, match="1 tensors are missing: lost"):
        verify_weights(model, {"lost": (1,)})


def test_git_lfs_pointer(model: Path) -> None:
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        inspect(model)


# shards


def shard(folder: Path, form: str) -> None:
    names = [f"{form}-0000{i}-of-00002" for i in (1, 2)]
    ending = ".safetensors" if form == "model" else ".bin"
    table = {}
    for name, (key, tensor) in zip(names, STATE.items(), strict=True):
        table[key] = name + ending
        if form == "model":
            save_file({key: tensor}, folder / f"{name}{ending}")
        else:
            torch.save({key: tensor}, folder / f"{name}{ending}")
    (folder / f"{form}{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))


@pytest.mark.parametrize("form", ["model", "pytorch_model"])
def test_shards_are_read_together_and_missing_ones_named(tmp_path: Path, form: str) -> None:
    shard(tmp_path, form)
    assert same(read_state_dict(tmp_path), STATE)
    assert verify_weights(tmp_path).num_parameters == 9
    lost = next(iter(sorted(tmp_path.glob("*-00002-of-00002*"))))
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"1 of 2 files are missing: {lost.name}"):
        inspect(tmp_path)


def test_an_index_of_another_model(tmp_path: Path) -> None:
    shard(tmp_path, "model")
    index = tmp_path / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    table["weight_map"]["lost.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match=r"1 tensors are not in the files the index names: lost.weight"):
        inspect(tmp_path)


def test_an_index_that_points_elsewhere(tmp_path: Path) -> None:
    table = {"weight_map": {"a": "../../secret.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match="out of its folder"):
        inspect(tmp_path)


# pickles


@pytest.mark.parametrize("wrap", [None, "module", "state_dict"])
@pytest.mark.parametrize("zipped", [True, False])
def test_honest_pickles(tmp_path: Path, wrap: str | None, zipped: bool) -> None:
    state = OrderedDict(STATE)
    content = state if wrap is None else {wrap: state, "iteration": 7}
    torch.save(content, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    info = verify_weights(tmp_path)
    assert info.format == "pickle" and info.shapes == {"encoder.weight": (2, 3), "encoder.bias": (3,)}
    assert same(read_state_dict(tmp_path), STATE)


def test_random_states_of_the_original_trainer_are_read(tmp_path: Path) -> None:
    state = {
        "module": STATE,
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.RandomState(0).get_state(),
        "torch_rng_state": torch.get_rng_state(),
    }
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert same(read_state_dict(tmp_path), STATE)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
def test_a_hostile_pickle_is_refused_by_name_and_not_run(tmp_path: Path, kind: str, protocol: int) -> None:
    mark = tmp_path / "executed"
    content = {"module": STATE, "extra": Bomb(mark)}
    file = tmp_path / "pytorch_model.bin"
    if kind == "plain":
        file.write_bytes(pickle.dumps({"extra": Bomb(mark)}, protocol=protocol))
    else:
        options = {"_use_new_zipfile_serialization": kind == "zip", "pickle_protocol": max(protocol, 2)}
        torch.save(content, file, **options)
    with pytest.raises(CheckpointError, match=r"(posix|nt)\.system.*nothing of it was executed"):
        verify_weights(tmp_path)
    with pytest.raises(CheckpointError, match="system"):
        read_state_dict(tmp_path)
    assert not mark.exists()
    # The fixture is a real bomb: opened carelessly, it goes off.
    torch.load(file, weights_only=False) if kind != "plain" else pickle.loads(file.read_bytes())
    assert mark.exists()


def test_a_bomb_in_a_second_pickle_of_the_archive_is_found(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save(STATE, file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(Bomb(tmp_path / "executed")))
    with pytest.raises(CheckpointError, match="system"):
        verify_weights(tmp_path)


def test_a_name_hidden_in_the_memo_is_found(tmp_path: Path) -> None:
    # "os" and "system" are put into the memo, forgotten, and fetched again in front of STACK_GLOBAL.
    code = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940\x300h\x00h\x01\x93."
    file = tmp_path / "x.pkl"
    file.write_bytes(code)
    assert pickles.globals_in(file) == {"os.system"}


def test_globals_of_honest_files_are_few(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "x.bin")
    assert pickles.globals_in(tmp_path / "x.bin") == {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch.FloatStorage",
        "torch.HalfStorage",
    }


@pytest.mark.parametrize("damage", ["half", "empty", "text"])
def test_damaged_pickles(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(1000)}, file)
    data = file.read_bytes()
    file.write_bytes({"half": data[: len(data) // 2], "empty": b"", "text": "no weights here 你好\n".encode()}[damage])
    with pytest.raises(CheckpointError, match="damaged, cut off"):
        verify_weights(tmp_path)


def test_a_pickle_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no tensors"):
        verify_weights(tmp_path)


def test_safetensors_win_over_a_pickle_beside_them(model: Path) -> None:
    torch.save({"extra": Bomb(model / "executed")}, model / "pytorch_model.bin")
    assert inspect(model).format == "safetensors"


# the original's folders


def test_save_folders_of_the_original_are_followed(tmp_path: Path) -> None:
    for number, value in ((10, 1.0), (20, 2.0)):
        inner = tmp_path / str(number)
        inner.mkdir()
        torch.save({"iteration": number, "module": {"a": torch.tensor([value])}}, inner / "pytorch_model.bin")
    (tmp_path / "latest_iteration.txt").write_text("20\t10")
    assert read_state_dict(tmp_path)["a"].item() == 2.0
    assert inspect(tmp_path, which="best").folder.name == "10"
    (tmp_path / "latest_iteration.txt").write_text("30\t10")
    with pytest.raises(CheckpointError, match="iteration '30'"):
        inspect(tmp_path)
    (tmp_path / "latest_iteration.txt").write_text("../../etc\t1")
    with pytest.raises(CheckpointError, match="no such folder"):
        inspect(tmp_path)


def test_old_deepspeed_name_and_slices(tmp_path: Path) -> None:
    torch.save({"module": STATE}, tmp_path / "mp_rank_00_model_states.pt")
    assert same(read_state_dict(tmp_path), STATE)
    torch.save({"module": STATE}, tmp_path / "mp_rank_01_model_states.pt")
    with pytest.raises(CheckpointError, match="2 model-parallel slices"):
        inspect(tmp_path)


def test_layouts() -> None:
    assert layout_of(["model.encoder.layer.0.attention.self.query_key_value.weight"]) == "flagai"
    assert layout_of(["bert.encoder.layer.0.attention.self.query.weight"]) == "huggingface"
    assert layout_of(["transformer.layers.0.attention.query_key_value.weight"]) == "huggingface"
    assert layout_of([]) == "unknown"


def test_weights_hash_is_the_files_hash_and_sees_every_shard(model: Path, tmp_path: Path) -> None:
    assert weights_sha256(model) == hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    shards = tmp_path / "shards"
    shards.mkdir()
    shard(shards, "model")
    before = weights_sha256(shards)
    save_file({"encoder.bias": torch.zeros(3, dtype=torch.float16)}, shards / "model-00002-of-00002.safetensors")
    assert weights_sha256(shards) != before


# tokenizer against model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> object:
    return character_tokenizer(["今天天气很好", "good day"], tmp_path_factory.mktemp("tokenizer"))


def test_a_fitting_tokenizer_passes(tokenizer: object) -> None:
    tokenizer_fits(tokenizer, SimpleNamespace(vocab_size=len(tokenizer), pad_token_id=0))
    tokenizer_fits(tokenizer, SimpleNamespace(vocab_size=len(tokenizer) + 64, pad_token_id=None))


def test_a_vocabulary_larger_than_the_embedding(tokenizer: object) -> None:
    rows = len(tokenizer) - 1
    with pytest.raises(ModelError, match=f"ids up to {rows}, the model's embedding has {rows} rows"):
        tokenizer_fits(tokenizer, SimpleNamespace(vocab_size=rows, pad_token_id=0))


def test_special_ids_beyond_the_embedding(tokenizer: object) -> None:
    with pytest.raises(ModelError, match=r"'\[MASK\]' = 4"):
        tokenizer_fits(tokenizer, SimpleNamespace(vocab_size=4, pad_token_id=0))


def test_padding_that_differs_or_is_absent(tokenizer: object) -> None:
    with pytest.raises(ModelError, match="pads with id 0, the model with 1"):
        tokenizer_fits(tokenizer, SimpleNamespace(vocab_size=9999, pad_token_id=1))

    class Bare:
        pad_token_id, all_special_ids, all_special_tokens = None, (), ()

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

        def __len__(self) -> int:
            return 1

    with pytest.raises(ModelError, match="no padding token"):
        tokenizer_fits(Bare(), SimpleNamespace(vocab_size=10, pad_token_id=0))


def test_the_fingerprint_sees_other_ids_and_other_splitting(tokenizer: object, tmp_path: Path) -> None:
    texts = ["今天天气很好", "good day"]
    same_again = character_tokenizer(texts, tmp_path / "a")
    assert fingerprint(tokenizer) == fingerprint(same_again)
    assert len(fingerprint(tokenizer)) == 64
    lower = character_tokenizer(texts, tmp_path / "b", lowercase=True)
    other = character_tokenizer([texts[0] * 3, texts[1] * 9], tmp_path / "c")
    grown = character_tokenizer(texts, tmp_path / "d")
    grown.add_tokens(["天气"])
    assert len({fingerprint(one) for one in (tokenizer, lower, other, grown)}) == 4
