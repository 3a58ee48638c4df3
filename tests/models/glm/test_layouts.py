"""Names, thirds and parts: against the published rules, written down once more and slowly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.models.glm.conftest import GLM
from torch import Tensor

from flagai.errors import CheckpointError
from flagai.models.glm import layouts
from flagai.models.glm.layouts import Sizes, check_shapes, cut_of, expected_shapes, take, take_thirds, thirds_of

TINY = Sizes(num_layers=4, hidden_size=64, vocab_size=1000, max_sequence_length=64)


def weights() -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in np.load(GLM / "weights.npz").items()}


def cut_slowly(name: str, tensor: Tensor, ranks: int) -> list[Tensor]:
    """The published splitter, element by element of the list of ranks."""
    if "query_key_value" in name:
        thirds = tensor.chunk(3, 0)
        return [torch.cat([third.chunk(ranks, 0)[rank] for third in thirds], 0) for rank in range(ranks)]
    if name.startswith("word_embeddings") or "dense_h_to_4h" in name:
        return list(tensor.chunk(ranks, 0))
    if name.endswith(("attention.dense.weight", "mlp.dense_4h_to_h.weight")):
        return list(tensor.chunk(ranks, 1))
    return [tensor] * ranks


def part(name: str, shards: list[Tensor], rank: int = 0, ranks: int = 1) -> Tensor:
    if cut_of(name) == "thirds":
        return torch.cat(take_thirds([thirds_of(shard) for shard in shards], rank, ranks))
    return take(shards, cut_of(name), rank, ranks)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_cutting_and_joining_equal_the_published_splitter(ranks: int) -> None:
    for name, tensor in weights().items():
        slow = cut_slowly(name, tensor, ranks)
        fast = [part(name, [tensor], rank, ranks) for rank in range(ranks)]
        assert all(map(torch.equal, slow, fast)), name
        assert torch.equal(part(name, slow), tensor), name
        assert layouts.whole_shape(tuple(slow[0].shape), cut_of(name), ranks) == tensor.shape


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4), (4, 1), (1, 4)])
def test_any_number_of_parts_becomes_any_other(before: int, after: int) -> None:
    for name, tensor in weights().items():
        shards = cut_slowly(name, tensor, before)
        parts = [part(name, shards, rank, after) for rank in range(after)]
        assert all(map(torch.equal, parts, cut_slowly(name, tensor, after))), name


def test_what_is_taken_has_memory_of_its_own() -> None:
    for name, tensor in weights().items():
        taken = part(name, [tensor])
        assert taken.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr() and taken.is_contiguous()
        assert taken.untyped_storage().nbytes() == taken.nbytes


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("glm.word_embeddings.weight", "word_embeddings.weight"),
        ("module.model.word_embeddings.weight", "word_embeddings.weight"),
        ("model.transformer.final_layernorm.bias", "transformer.final_layernorm.bias"),
        ("pool_layer.weight", "dense.weight"),
        ("model.multichoice_head.bias", "out_proj.bias"),
        ("dense.weight", "dense.weight"),
        ("transformer.position_embeddings.inv_freq", None),
    ],
)
def test_bare_names(name: str, bare: str | None) -> None:
    assert layouts.bare_name(name) == bare


def test_our_names_and_back() -> None:
    for name in expected_shapes(TINY):
        ours = layouts.our_names(name)
        assert {layouts.fused_name(str(layouts.bare_name(one)))[0] for one in ours} == {name}
        assert len(ours) == (3 if "query_key_value" in name else 1)
    fused = "transformer.layers.3.attention.query_key_value.bias"
    assert layouts.our_names(fused)[1] == "glm.transformer.layers.3.attention.key.bias"
    assert layouts.fused_name("transformer.layers.3.attention.value.bias") == (fused, 2)
    assert layouts.our_names("out_proj.weight") == ("out_proj.weight",)


def test_shapes_of_the_reference_and_of_the_released_models() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in weights().items()}
    assert check_shapes(shapes) == TINY
    assert expected_shapes(TINY) == shapes
    assert list(expected_shapes(TINY)) == list(shapes), "the order of the published files"
    # L, h, P, V → parameters, from the table of released models
    released = {
        (12, 768, 512, 30592): 109_338_624,
        (24, 1024, 512, 30592): 334_688_256,
        (30, 1152, 512, 30592): 514_632_960,
        (24, 1024, 512, 50304): 354_873_344,
        (36, 2048, 1024, 50304): 1_920_122_880,
        (48, 4096, 1024, 50304): 9_880_682_496,
        (48, 4096, 1024, 50048): 9_879_633_920,
        (24, 1024, 1024, 50048): 355_659_776,
    }
    for (layers, hidden, positions, rows), parameters in released.items():
        sizes = Sizes(num_layers=layers, hidden_size=hidden, vocab_size=rows, max_sequence_length=positions)
        assert sizes.num_parameters == parameters
        assert sum(torch.Size(shape).numel() for shape in expected_shapes(sizes).values()) == parameters
        assert len(expected_shapes(sizes)) == 12 * layers + 5


def test_every_name_that_is_wrong_is_listed() -> None:
    shapes = expected_shapes(TINY)
    lost = "transformer.layers.2.mlp.dense_4h_to_h.bias"
    del shapes[lost]
    shapes |= {"prompt_spell.lstm_head.weight": (1, 1), "out_proj.weight": (2, 64)}
    shapes["transformer.final_layernorm.bias"] = (63,)
    with pytest.raises(CheckpointError) as caught:
        check_shapes(shapes)
    text = str(caught.value)
    assert f"1 tensors are missing: {lost}" in text
    assert "1 tensors have no place in a GLM: prompt_spell.lstm_head.weight" in text
    assert "transformer.final_layernorm.bias is [63], not [64]" in text
    assert "out_proj" not in text, "heads have a place"
    with pytest.raises(CheckpointError, match=r"no word_embeddings\.weight"):
        check_shapes({"bert.embeddings.weight": (1, 1)})


def test_the_row_of_gmask_is_copied_for_one_model_on_its_way_to_the_hub() -> None:
    ten_b = Sizes(num_layers=48, hidden_size=4096, vocab_size=50048, max_sequence_length=1024)
    assert layouts.lacks_gmask(ten_b, "thudm", "huggingface")
    assert not layouts.lacks_gmask(ten_b, "huggingface", "huggingface")
    assert not layouts.lacks_gmask(ten_b, "thudm", "flagai")
    large = Sizes(num_layers=24, hidden_size=1024, vocab_size=50048, max_sequence_length=1024)
    assert not layouts.lacks_gmask(large, "thudm", "huggingface")
    words = torch.arange(50048.0)[:, None].repeat(1, 2)
    changed = layouts.with_gmask(words.clone())
    assert changed[50009].tolist() == [50007.0, 50007.0]
    assert (changed != words).any(1).nonzero().flatten().tolist() == [50009]
