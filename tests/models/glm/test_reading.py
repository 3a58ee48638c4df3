"""Every layout of weights gives the original's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.glm.conftest import GLM, split_names
from tests.models.glm.folders_of_weights import (
    LAYOUTS,
    deepspeed,
    flagai,
    flagai_slices,
    hub,
    ours,
    prefixed,
    real_hub,
    real_two_shards,
)
from tests.models.glm.test_layouts import weights

from flagai.errors import CheckpointError, MissingFileError, ModelError
from flagai.models.checkpoints import inspect, read_state_dict, verify_weights
from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.folders import find_glm
from flagai.models.glm.heads import GLMForSequenceClassification
from flagai.models.glm.modeling import GLMForConditionalGeneration, GLMModel
from flagai.models.glm.reading import load_glm, load_published, read_weights
from flagai.models.glm.sources import open_glm

CASES = ("A_scalar_sep", "B_vector_sep", "C_mask4d", "E_causal", "F_bidir", "G_attnscale8")


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
