"""Every layout of weights gives the original's numbers, and every broken folder an error that says what is wrong."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.glm.conftest import GLM, split_names
from tests.models.glm.test_layouts import cut_slowly, weights
from torch import Tensor

from flagai.errors import CheckpointError, FlagaiError, MissingFileError, ModelError
from flagai.models.checkpoints import inspect, read_state_dict, verify_weights
from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.folders import find_glm
from flagai.models.glm.heads import GLMForSequenceClassification
from flagai.models.glm.modeling import GLMForConditionalGeneration, GLMModel
from flagai.models.glm.reading import load_glm, load_published, read_weights
from flagai.models.glm.sources import open_glm

CASES = ("A_scalar_sep", "B_vector_sep", "C_mask4d", "E_causal", "F_bidir", "G_attnscale8")
Make = Callable[[Path], Path]


def published(**changes: Any) -> str:
    return json.dumps(json.loads((GLM / "config.json").read_text("utf-8")) | changes)


def original(**changes: Any) -> str:
    """FlagAI's config.json: the numbers, and no model_type."""
    values = json.loads(published(max_memory_length=0, **changes))
    return json.dumps({name: value for name, value in values.items() if name not in ("model_type", "_gelu")})


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def deepspeed(folder: Path, ranks: int = 1, *, dtype: torch.dtype = torch.float32, **extra: Any) -> Path:
    inner = folder / "7"
    inner.mkdir(parents=True)
    for rank in range(ranks):
        state = {name: cut_slowly(name, t.to(dtype), ranks)[rank].clone() for name, t in weights().items()}
        content = {"module": state, "mp_world_size": ranks, "iteration": 7, "global_steps": 7, "optimizer": None}
        torch.save(content | extra, inner / f"mp_rank_{rank:02d}_model_states.pt")
    (folder / "latest").write_text("7")
    (folder / "config.json").write_text(published())
    return folder


def deepspeed_tag(folder: Path) -> Path:
    inner = deepspeed(folder) / "7"
    (folder / "config.json").rename(inner / "config.json")
    return inner


def real_two_shards(folder: Path) -> Path:
    shutil.copytree(GLM / "ds_MP2", folder)
    (folder / "config.json").write_text(published())
    return folder


def real_hub(folder: Path) -> Path:
    return Path(shutil.copytree(GLM / "hf", folder))


def hub(folder: Path, prefix: str = "glm.", *, sharded: bool = False, stray: bool = False) -> Path:
    folder.mkdir()
    state = prefixed(prefix, weights())
    state |= {"dense.weight": torch.ones(64, 64), "out_proj.weight": torch.ones(2, 64)} if stray else {}
    (folder / "config.json").write_text(published(architectures=["GLMModel"], auto_map={"AutoModel": "m.GLMModel"}))
    if not sharded:
        save_file(state, folder / "model.safetensors")
        return folder
    table = {}
    for number in range(3):
        file = f"pytorch_model-{number + 1:05d}-of-00003.bin"
        part = dict(list(state.items())[number::3])
        torch.save(part, folder / file)
        table |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return folder


def flagai(folder: Path, *, wrapped: bool = False, legacy: bool = False) -> Path:
    folder.mkdir()
    state: Any = {"module": prefixed("model.", weights())} if wrapped else weights()
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    (folder / "config.json").write_text(original())
    return folder


def flagai_slices(folder: Path, ranks: int = 4) -> Path:
    folder.mkdir()
    for rank in range(ranks):
        state = {name: cut_slowly(name, tensor, ranks)[rank].clone() for name, tensor in weights().items()}
        torch.save({"module": state}, folder / f"pytorch_model_{rank:02d}.bin")
    (folder / "config.json").write_text(original())
    return folder


def ours(folder: Path, *, most: str = "50GB") -> Path:
    model = GLMForConditionalGeneration(GLMConfig.from_pretrained(GLM))
    model.load_state_dict(split_names(dict(np.load(GLM / "weights.npz"))), strict=False)
    model.save_pretrained(folder, max_shard_size=most)
    return folder


LAYOUTS: dict[str, tuple[str, Make]] = {
    "deepspeed": ("thudm", deepspeed),
    "deepspeed, the tag itself": ("thudm", deepspeed_tag),
    "deepspeed, two shards of the original": ("thudm", real_two_shards),
    "deepspeed, four shards": ("thudm", lambda folder: deepspeed(folder, 4)),
    "hub, pickle of the original": ("huggingface", real_hub),
    "hub, bare": ("huggingface", lambda folder: hub(folder, "")),
    "hub, sharded pickles": ("huggingface", lambda folder: hub(folder, sharded=True)),
    "hub, with layers of no use": ("huggingface", lambda folder: hub(folder, stray=True)),
    "FlagAI": ("flagai-original", flagai),
    "FlagAI, module and model": ("flagai-original", lambda folder: flagai(folder, wrapped=True)),
    "FlagAI, before torch 1.6": ("flagai-original", lambda folder: flagai(folder, legacy=True)),
    "FlagAI, slices": ("flagai-original", flagai_slices),
    "ours": ("flagai", ours),
    "ours, sharded": ("flagai", lambda folder: ours(folder, most="200KB")),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_originals_logits(tmp_path: Path, name: str) -> None:
    layout, make = LAYOUTS[name]
    folder = make(tmp_path / "model")
    found = find_glm(folder)
    assert found is not None and found.layout == layout
    model = load_glm(folder)
    assert type(model) is GLMForConditionalGeneration and not model.training and model.fresh_parameters == ()
    assert model.lm_head.weight is model.glm.word_embeddings.weight
    inputs, truth = np.load(GLM / "inputs.npz"), np.load(GLM / "logits_thudm.npz")
    for case in CASES:
        for layer in model.glm.transformer.layers:
            layer.attention.attention_scale = 8.0 if case.startswith("G") else 1.0
        given = {key: torch.tensor(inputs[f"{case}/{key}"]) for key in ("input_ids", "position_ids", "attention_mask")}
        with torch.no_grad():
            assert np.abs(model(**given).logits.numpy() - truth[case]).max() < 5e-5, case
    case_with_cache(model, inputs, truth)


def case_with_cache(model: Any, inputs: Any, truth: Any) -> None:
    given = {key: torch.tensor(inputs[f"D_mems/{key}"]) for key in ("input_ids", "position_ids", "attention_mask")}
    place = int(inputs["D_mems/step_pos"])
    with torch.no_grad():
        outputs = model(**given, use_cache=True)
        assert np.abs(outputs.logits.numpy() - truth["D_mems/prefill"]).max() < 5e-5
        for i in range(3):
            token, where = torch.tensor(inputs["D_mems/steps"][:, i : i + 1]), torch.tensor([[[place], [i + 1]]])
            step = model(token, position_ids=where, past_key_values=outputs.past_key_values)
            assert np.abs(step.logits.numpy() - truth[f"D_mems/step{i}"]).max() < 5e-5


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_stream_is_the_tensors_under_our_names(tmp_path: Path, name: str) -> None:
    folder = LAYOUTS[name][1](tmp_path / "model")
    expected = split_names(dict(np.load(GLM / "weights.npz")))
    read = dict(read_weights(folder, heads=False))
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[key], expected[key]) for key in expected)
    storages = {tensor.untyped_storage().data_ptr() for tensor in read.values()}
    assert len(storages) == len(read), "no two tensors share memory"
    info = verify_weights(folder)
    heads = {"dense.weight", "out_proj.weight"}
    assert info.layout == "glm" and info.shapes is not None and info.shapes.keys() - heads == expected.keys()
    assert inspect(folder).files == info.files


def test_other_models_are_not_taken_for_a_glm(tmp_path: Path) -> None:
    assert find_glm(tmp_path / "nothing") is None and find_glm(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "glm", "num_hidden_layers": 40}))
    assert find_glm(tmp_path) is None, "transformers' GLM-4"
    (tmp_path / "config.json").unlink()
    torch.save({"bert.x": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert find_glm(tmp_path) is None
    with pytest.raises(CheckpointError, match="no GLM of 2022"):
        open_glm(tmp_path)
    with pytest.raises(MissingFileError):
        open_glm(tmp_path / "nothing")


def test_slices_are_read_together_and_those_of_other_models_refused(tmp_path: Path) -> None:
    read = read_state_dict(flagai_slices(tmp_path / "model", 2))
    assert torch.equal(read["glm.word_embeddings.weight"], weights()["word_embeddings.weight"])
    other = tmp_path / "other"
    other.mkdir()
    for rank in range(2):
        torch.save({"module": {"bert.x": torch.ones(2)}}, other / f"pytorch_model_{rank:02d}.bin")
    with pytest.raises(CheckpointError, match="2 model-parallel slices"):
        verify_weights(other)


# classes, dtypes, positions


def test_bodies_heads_and_dtypes(tmp_path: Path) -> None:
    folder = real_two_shards(tmp_path / "model")
    body = load_glm(folder, "encoder", dtype=torch.bfloat16)
    assert type(body) is GLMModel and body.dtype == torch.bfloat16 and body.config.dtype == torch.bfloat16
    assert torch.equal(body.word_embeddings.weight, weights()["word_embeddings.weight"].bfloat16())
    first, second = (load_glm(folder, GLMForSequenceClassification) for _ in range(2))
    assert set(first.fresh_parameters) == {
        f"{one}.{two}" for one in ("dense", "out_proj") for two in ("weight", "bias")
    }
    assert torch.equal(first.dense.weight, second.dense.weight) and 0.01 < first.dense.weight.std().item() < 0.03
    assert not torch.equal(first.dense.weight, load_glm(folder, GLMForSequenceClassification, seed=1).dense.weight)
    assert all(parameter.requires_grad for parameter in first.parameters())


def test_published_folders_in_the_words_of_from_pretrained(tmp_path: Path) -> None:
    folder = deepspeed(tmp_path / "model", 2, dtype=torch.float16)
    model = load_published(GLMForConditionalGeneration, folder, trust_remote_code=True, attn_implementation="eager")
    assert model.dtype == torch.float16 and model.config._attn_implementation == "eager"
    model = load_published(GLMModel, folder, dtype=torch.float32, gelu="erf", max_sequence_length=70)
    assert model.dtype == torch.float32 and model.transformer.layers[0].mlp.approximate == "none"
    assert model.transformer.position_embeddings.weight.shape[0] == 71
    with pytest.raises(ModelError, match="takes no quantization"):
        load_published(GLMModel, folder, quantization="nf4")
    assert load_published(GLMModel, ours(tmp_path / "ours")) is None, "transformers reads that itself"
    assert load_published(GLMModel, tmp_path / "nowhere") is None


def test_layers_of_no_use_are_not_taken_for_a_classifier(tmp_path: Path) -> None:
    model = load_glm(hub(tmp_path / "model", stray=True), "sequence-classification")
    assert "dense.weight" in model.fresh_parameters and not bool((model.dense.weight == 1).all())


def test_a_classifier_of_the_original_is_read(tmp_path: Path) -> None:
    folder = flagai(tmp_path / "model")
    head = {"pool_layer.weight": torch.full((64, 64), 0.5), "pool_layer.bias": torch.ones(64)}
    head |= {"multichoice_head.weight": torch.full((2, 64), 0.25), "multichoice_head.bias": torch.ones(2)}
    torch.save({"module": prefixed("model.", weights()) | head}, folder / "pytorch_model.bin")
    model = load_glm(folder, "sequence-classification")
    assert model.fresh_parameters == ()
    assert bool((model.dense.weight == 0.5).all()) and bool((model.out_proj.weight == 0.25).all())
    assert load_glm(folder).fresh_parameters == (), "which a model without one leaves alone"


def test_more_positions_extend_both_tables(tmp_path: Path) -> None:
    folder = real_hub(tmp_path / "model")
    model = load_glm(folder, max_sequence_length=80)
    tables = model.glm.transformer.position_embeddings.weight, model.glm.transformer.block_position_embeddings.weight
    for table, name in zip(tables, ("position", "block_position"), strict=True):
        assert table.shape == (81, 64)
        assert torch.equal(table[:65], weights()[f"transformer.{name}_embeddings.weight"])
        assert 0.01 < table[65:].std().item() < 0.03
    assert not torch.equal(tables[0][65:], tables[1][65:])
    again = load_glm(folder, max_sequence_length=80).glm.transformer.position_embeddings.weight
    assert torch.equal(again, tables[0]), "the new rows depend on the seed alone"
    assert [name.rpartition(".")[2] for name in model.fresh_parameters] == ["weight[65:]"] * 2
    with pytest.raises(ModelError, match="position tables of the weights are for 64"):
        load_glm(folder, max_sequence_length=63)


def test_a_model_of_ten_billion_parameters_has_its_shape_without_its_memory() -> None:
    sizes = {"num_layers": 48, "hidden_size": 4096, "num_attention_heads": 64}
    config = GLMConfig(**sizes, vocab_size=50304, max_sequence_length=1024)
    with torch.device("meta"):
        model = GLMForConditionalGeneration(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 9_880_682_496
    names = {name for name, _ in model.named_parameters()}
    published_names = {name.replace(f".{part}.", ".query_key_value.") for name in names for part in ("query",)}
    assert len({n for n in published_names if ".key." not in n and ".value." not in n}) == 12 * 48 + 5


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
