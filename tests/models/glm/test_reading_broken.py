"""Foreign things in a checkpoint stay inert, and every broken folder gives an error that says what is wrong."""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.glm.folders_of_weights import deepspeed, hub, ours, published, real_two_shards
from tests.models.glm.test_layouts import weights

from flagai.errors import CheckpointError, FlagaiError
from flagai.models.checkpoints import verify_weights
from flagai.models.glm.reading import load_glm
from flagai.models.glm.sources import open_glm

# random states and hostile files


class RunsACommand:
    """Unpickled, it would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.target}",)


def states() -> dict[str, Any]:
    """What published checkpoints carry besides the weights, and some more of the kind."""
    return {
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.RandomState(3).get_state(),
        "torch_rng_state": torch.get_rng_state(),
        "rng_tracker_states": {"model-parallel-rng": torch.get_rng_state()},
        "client_lr_scheduler": {"start_lr": 1e-4, "num_iters": 7, "decay_style": "linear"},
        "best": np.float64(0.5),
        "args": argparse.Namespace(hidden_size=64),
        "generator": np.random.default_rng(0),
        "old_generator": np.random.RandomState(0),
        "python": random.Random(0),
        "curve": np.arange(3.0),
    }


def test_random_states_in_a_checkpoint_are_read_as_inert_data(tmp_path: Path) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    model = load_glm(deepspeed(tmp_path / "model", 2, **states()))
    assert torch.equal(model.glm.word_embeddings.weight, weights()["word_embeddings.weight"])
    assert before == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index, union-attr]


def test_a_hostile_shard_is_refused_by_name(tmp_path: Path) -> None:
    folder, mark = real_two_shards(tmp_path / "model"), tmp_path / "executed"
    file = folder / "100" / "mp_rank_01_model_states.pt"
    content = torch.load(file, weights_only=False) | {"np_rng_state": RunsACommand(mark)}
    torch.save(content, file)
    for read in (load_glm, verify_weights, open_glm):
        with pytest.raises(CheckpointError, match=r"mp_rank_01.*(posix|nt)\.system.*nothing of it was executed"):
            read(folder)
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists(), "the file is a real bomb"


# folders that are broken


def drop_last_shard(folder: Path) -> None:
    (folder / "7" / "mp_rank_03_model_states.pt").unlink()


def drop_middle_shard(folder: Path) -> None:
    (folder / "7" / "mp_rank_01_model_states.pt").unlink()


def drop_first_shard(folder: Path) -> None:
    (folder / "7" / "mp_rank_00_model_states.pt").unlink()


def change(folder: Path, rank: int, alter: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / "7" / f"mp_rank_{rank:02d}_model_states.pt"
    content = torch.load(file, weights_only=True)
    alter(content)
    torch.save(content, file)


def later_step(folder: Path) -> None:
    change(folder, 2, lambda content: content.update(iteration=8))


def bigger_shard(folder: Path) -> None:
    change(folder, 2, lambda content: content["module"].update({"word_embeddings.weight": torch.zeros(251, 64)}))


def other_model(folder: Path) -> None:
    change(folder, 3, lambda content: content["module"].update({"transformer.final_layernorm.bias": torch.ones(64)}))


def other_dtype(folder: Path) -> None:
    name = "transformer.layers.1.mlp.dense_h_to_4h.bias"
    change(folder, 1, lambda content: content["module"].update({name: content["module"][name].half()}))


def lost_tensor_in_a_shard(folder: Path) -> None:
    change(folder, 1, lambda content: content["module"].pop("transformer.layers.1.mlp.dense_h_to_4h.bias"))


def cut_off(folder: Path) -> None:
    file = folder / "7" / "mp_rank_02_model_states.pt"
    file.write_bytes(file.read_bytes()[:-5000])


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def tracker_to_nowhere(folder: Path) -> None:
    (folder / "latest").write_text("global_step9")


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: (folder / "config.json").write_text(published(**changes)) and None


def without(field: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        values = json.loads(published())
        del values[field]
        (folder / "config.json").write_text(json.dumps(values))

    return apply


BROKEN: list[tuple[Callable[[Path], None], str]] = [
    (drop_last_shard, "3 of 4 model-parallel shards are here"),
    (drop_middle_shard, "a shard is missing: mp_rank_01_model_states.pt is not there"),
    (drop_first_shard, "a shard is missing: mp_rank_00_model_states.pt is not there"),
    (later_step, r"different steps: mp_rank_00_model_states.pt 7, .*mp_rank_02_model_states.pt 8"),
    (bigger_shard, r"word_embeddings.weight differs in size between shards: .*rank_02_model_states.pt \[251, 64\]"),
    (other_model, "transformer.final_layernorm.bias differs between the shards"),
    (other_dtype, "dense_h_to_4h.bias is stored as torch.float16, torch.float32"),
    (lost_tensor_in_a_shard, r"mp_rank_01.*1 tensors are missing that other shards have: .*dense_h_to_4h.bias"),
    (cut_off, "mp_rank_02_model_states.pt: the file is damaged, cut off"),
    (no_config, "number of attention heads is not known"),
    (tracker_to_nowhere, "names the iteration 'global_step9', and there is no such folder"),
    (config(num_layers=5), "num_layers = 5 but the tensors have 4"),
    (config(vocab_size=1024), "vocab_size = 1024 but the tensors have 1000"),
    (config(hidden_size=128), "hidden_size = 128 but the tensors have 64"),
    (config(max_sequence_length=32), "the position tables have 65 rows, for 64"),
    (config(num_attention_heads=5), "no multiple of num_attention_heads 5"),
    (config(relative_encoding=True), "relative_encoding = True"),
    (without("num_attention_heads"), "config.json has no num_attention_heads"),
    (without("max_sequence_length"), "config.json has no max_sequence_length"),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN, ids=[message[:40] for _, message in BROKEN])
def test_a_broken_folder_says_what_is_wrong(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = deepspeed(tmp_path / "model", 4)
    load_glm(folder, "encoder")
    damage(folder)
    with pytest.raises(FlagaiError, match=message) as caught:
        load_glm(folder)
    assert caught.value.fix
    with pytest.raises(FlagaiError, match=message):
        verify_weights(folder)


def test_names_that_lack_or_have_no_place_are_listed(tmp_path: Path) -> None:
    folder = hub(tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    state["glm.transformer.layers.9.new.weight"] = state.pop("glm.transformer.layers.1.mlp.dense_h_to_4h.bias")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_glm(folder)
    assert "transformer.layers.1.mlp.dense_h_to_4h.bias" in str(caught.value)
    assert "have no place in a GLM: transformer.layers.9.new.weight" in str(caught.value)


def test_a_third_of_a_fused_tensor_that_lacks_is_named(tmp_path: Path) -> None:
    folder = ours(tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    del state["glm.transformer.layers.2.attention.key.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"not all there for transformer.layers.2.attention.query_key_value.weight"
    ):
        load_glm(folder)


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    folder = hub(tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    state["word_embeddings.weight"] = torch.zeros(1000, 64)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"two tensors are word_embeddings\.weight"):
        load_glm(folder)
