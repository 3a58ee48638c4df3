"""Pooling, the classification heads, and what every head owes to padding and to saved files."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.modeling_outputs import BaseModelOutput, TokenClassifierOutput

from flagai.errors import ModelError, UnknownNameError
from flagai.models.heads import CRF, Cosine, GlobalPointer, Pooled, PooledLinear, pool, start_from_class_means

H, C = 8, 3


def body(lengths: list[int], *, width: int | None = None, seed: int = 0) -> tuple[BaseModelOutput, torch.Tensor]:
    """Hidden states whose real part depends on the row only; the pads hold NaN."""
    width = width or max(lengths)
    hidden = torch.full((len(lengths), width, H), float("nan"))
    mask = torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(seed + row)
        hidden[row, :length] = torch.randn(length, H, generator=generator)
        mask[row, :length] = 1
    return BaseModelOutput(last_hidden_state=hidden), mask


def test_pool_equals_a_loop_over_the_attended_positions() -> None:
    outputs, mask = body([5, 1, 3], width=7)
    hidden = outputs.last_hidden_state
    assert hidden is not None
    for row, length in enumerate([5, 1, 3]):
        real = hidden[row, :length]
        expected = {"mean": real.sum(0) / length, "max": real.max(0).values, "cls": real[0], "last": real[-1]}
        for how, vector in expected.items():
            torch.testing.assert_close(pool(hidden, mask, how)[row], vector, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("how", ["mean", "max", "cls", "last"])
def test_pool_sees_neither_the_side_nor_the_amount_of_padding(how: str) -> None:
    outputs, mask = body([4, 2])
    wide, wide_mask = body([4, 2], width=9)
    hidden, wide_hidden = outputs.last_hidden_state, wide.last_hidden_state
    assert hidden is not None and wide_hidden is not None
    assert torch.equal(pool(hidden, mask, how), pool(wide_hidden, wide_mask, how))
    # Left padding: the row of two tokens moved to the end.
    left, left_mask = hidden[1:].roll(2, dims=1), mask[1:].roll(2, dims=1)
    assert torch.equal(pool(hidden, mask, how)[1:], pool(left, left_mask, how))


@pytest.mark.parametrize("how", ["mean", "max", "cls", "last"])
def test_pool_of_nothing_is_zero(how: str) -> None:
    assert torch.equal(pool(torch.ones(1, 3, H), torch.zeros(1, 3), how), torch.zeros(1, H))


def test_pool_sums_bf16_in_fp32() -> None:
    hidden = torch.ones(1, 1000, 1, dtype=torch.bfloat16)  # a bf16 sum of ones stops at 256
    pooled = pool(hidden, torch.ones(1, 1000))
    assert pooled.dtype == torch.float32
    assert pooled.item() == 1.0


def test_unknown_pooling_names_the_choices() -> None:
    with pytest.raises(UnknownNameError, match="mean"):
        PooledLinear(H, C, pooling="men")


def test_pooled_linear_is_linear_of_the_pool_and_drops_only_in_training() -> None:
    head = PooledLinear(H, C, pooling="cls", dropout=0.5)
    outputs, mask = body([4, 2])
    head.eval()
    hidden = outputs.last_hidden_state
    assert hidden is not None
    expected = hidden[:, 0] @ head.classifier.weight.T + head.classifier.bias
    torch.testing.assert_close(head(outputs, mask)["logits"], expected)
    head.train()
    assert not torch.allclose(head(outputs, mask)["logits"], expected)


def test_pooled_embedding_has_length_one_only_when_asked() -> None:
    outputs, mask = body([4, 2])
    unit = Pooled(H, normalize=True)(outputs, mask)["embedding"]
    raw = Pooled(H, normalize=False)(outputs, mask)["embedding"]
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(raw / raw.norm(dim=-1, keepdim=True), unit)
    assert not list(Pooled(H).parameters())


def test_cosine_logits_are_scaled_cosines() -> None:
    head = Cosine(H, C, scale=7.0)
    outputs, mask = body([4, 2])
    result = head(outputs, mask)
    hidden = outputs.last_hidden_state
    assert hidden is not None
    pooled = pool(hidden, mask)
    for row in range(2):
        for label in range(C):
            cosine = torch.cosine_similarity(pooled[row], head.class_vectors[label], dim=0)
            torch.testing.assert_close(result["logits"][row, label], 7.0 * cosine)
    torch.testing.assert_close(result["embedding"], torch.nn.functional.normalize(pooled, dim=-1))


def test_a_learned_scale_starts_at_its_value_and_gets_a_gradient() -> None:
    fixed, learned = Cosine(H, C, scale=7.0), Cosine(H, C, scale=7.0, learn_scale=True)
    learned.class_vectors.data.copy_(fixed.class_vectors.data)
    outputs, mask = body([4, 2])
    torch.testing.assert_close(learned(outputs, mask)["logits"], fixed(outputs, mask)["logits"])
    learned(outputs, mask)["logits"].pow(2).sum().backward()
    assert learned.log_scale is not None and learned.log_scale.grad is not None
    assert learned.log_scale.grad.abs() > 0
    with pytest.raises(ModelError, match="positive"):
        Cosine(H, C, scale=0.0)


def test_start_from_class_means_is_the_nearest_centroid_classifier() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, H))
    labels = rng.integers(0, 4, size=200)
    vectors = (centres[labels] + rng.normal(size=(200, H)) * 1.2).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    centroids = np.stack([unit[labels == c].mean(0) for c in range(4)])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    expected = (unit @ centroids.T).argmax(1)

    head = Cosine(H, 5)
    untouched = head.class_vectors[4].clone()
    start_from_class_means(head, vectors, labels)
    hidden = torch.from_numpy(vectors)[:, None, :]
    logits = head(BaseModelOutput(last_hidden_state=hidden), torch.ones(200, 1))["logits"][:, :4]  # type: ignore[arg-type]
    assert np.array_equal(logits.argmax(1).numpy(), expected)
    assert 0.5 < (expected == labels).mean() < 1.0
    assert torch.equal(head.class_vectors[4], untouched)


HEADS = {
    "linear": lambda: PooledLinear(H, C),
    "cosine": lambda: Cosine(H, C, learn_scale=True),
    "pooled": lambda: Pooled(H, C),
    "crf": lambda: CRF(H, C),
    "global-pointer": lambda: GlobalPointer(H, C),
    "efficient": lambda: GlobalPointer(H, C, efficient=True),
}


@pytest.mark.parametrize("name", HEADS)
def test_weights_follow_the_global_seed_and_survive_safetensors(name: str, tmp_path) -> None:
    torch.manual_seed(3)
    first = HEADS[name]()
    torch.manual_seed(3)
    second = HEADS[name]()
    torch.manual_seed(4)
    other = HEADS[name]()
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
        assert value.isfinite().all()
    if first.state_dict():
        save_file(first.state_dict(), tmp_path / "head.safetensors")
        other.load_state_dict(load_file(tmp_path / "head.safetensors"), strict=True)
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in first.state_dict().items())


@pytest.mark.parametrize("name", HEADS)
def test_a_head_made_on_meta_and_loaded_answers_the_same(name: str) -> None:
    if name == "crf":
        outputs, mask = TokenClassifierOutput(logits=torch.randn(2, 3, C)), torch.ones(2, 3)  # type: ignore[arg-type]
    else:
        outputs, mask = body([3, 2])
    head = HEADS[name]().eval()
    with torch.device("meta"):
        empty = HEADS[name]().eval()
    empty.load_state_dict(head.state_dict(), assign=True)
    for key, value in head(outputs, mask).items():
        torch.testing.assert_close(empty(outputs, mask)[key], value, equal_nan=True)


def test_a_body_without_the_needed_output_is_named() -> None:
    with pytest.raises(ModelError, match=r"last_hidden_state.*logits"):
        PooledLinear(H, C)(TokenClassifierOutput(logits=torch.zeros(1, 2, C)), torch.ones(1, 2))  # type: ignore[arg-type]


def test_classifier_heads_do_not_see_the_batch() -> None:
    heads = [PooledLinear(H, C).eval(), Cosine(H, C).eval()]
    outputs, mask = body([6, 2, 4], width=9)
    hidden = outputs.last_hidden_state
    assert hidden is not None
    for head in heads:
        together = head(outputs, mask)["logits"]
        for row, length in enumerate([6, 2, 4]):
            alone = head(
                BaseModelOutput(last_hidden_state=hidden[row : row + 1, :length]), mask[row : row + 1, :length]
            )  # type: ignore[arg-type]
            torch.testing.assert_close(alone["logits"][0], together[row], atol=1e-6, rtol=1e-6)


def test_the_seeds_differ() -> None:
    weights = []
    for seed in (3, 4):
        torch.manual_seed(seed)
        weights.append(PooledLinear(H, C).classifier.weight.detach())
    assert all(not torch.equal(a, b) for a, b in pairwise(weights))
