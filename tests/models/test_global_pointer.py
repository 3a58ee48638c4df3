"""GlobalPointer scores against one pair at a time with explicit rotation matrices, its losses against plain sums."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from flagai.errors import ModelError
from flagai.models.global_pointer import (
    IMPOSSIBLE_SCORE,
    GlobalPointer,
    global_pointer_loss,
    mask_spans,
    rotate,
    sparse_global_pointer_loss,
)

H, C, D = 10, 3, 6


def rotation(position: int, dim: int) -> torch.Tensor:
    """The block-diagonal matrix of RoFormer, equation 15."""
    matrix = torch.zeros(dim, dim, dtype=torch.float64)
    for pair in range(dim // 2):
        angle = position * 10000.0 ** (-2 * pair / dim)
        matrix[2 * pair, 2 * pair] = matrix[2 * pair + 1, 2 * pair + 1] = math.cos(angle)
        matrix[2 * pair, 2 * pair + 1], matrix[2 * pair + 1, 2 * pair] = -math.sin(angle), math.sin(angle)
    return matrix


def head_of(**options: bool) -> GlobalPointer:
    torch.manual_seed(0)
    head = GlobalPointer(H, C, inner_dim=D, **options).double()  # type: ignore[arg-type]
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head


def naive(head: GlobalPointer, hidden: torch.Tensor, kind: int, i: int, j: int) -> torch.Tensor:
    turn = rotation if head.rope else lambda _, dim: torch.eye(dim, dtype=torch.float64)
    inner = hidden @ head.dense.weight.T + head.dense.bias
    block = slice(0, 2 * D) if head.efficient else slice(2 * D * kind, 2 * D * (kind + 1))
    query, key = inner[i, block][:D], inner[j, block][D:]
    score = (turn(i, D) @ query) @ (turn(j, D) @ key) / math.sqrt(D)
    if head.borders is not None:
        weight, bias = head.borders.weight, head.borders.bias
        score = score + weight[kind] @ inner[i] + bias[kind] + weight[C + kind] @ inner[j] + bias[C + kind]
    return score


@pytest.mark.parametrize("options", [{}, {"efficient": True}, {"rope": False}])
def test_scores_equal_the_formula_pair_by_pair(options: dict) -> None:
    head = head_of(**options)
    hidden = torch.randn(2, 5, H, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    logits = head(BaseModelOutput(last_hidden_state=hidden), mask)["logits"]  # type: ignore[arg-type]
    assert logits.shape == (2, C, 5, 5)
    for row in range(2):
        for kind in range(C):
            for i in range(5):
                for j in range(5):
                    possible = i <= j and mask[row, i] and mask[row, j]
                    expected = (
                        naive(head, hidden[row], kind, i, j)
                        if possible
                        else torch.tensor(IMPOSSIBLE_SCORE, dtype=torch.float64)
                    )
                    assert logits[row, kind, i, j].item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-9)


def test_rotate_equals_rotation_matrices_and_products_see_differences_only() -> None:
    vectors = torch.randn(1, 7, 1, D, dtype=torch.float64)
    turned = rotate(vectors)
    for position in range(7):
        torch.testing.assert_close(turned[0, position, 0], rotation(position, D) @ vectors[0, position, 0])
    same = rotate(torch.ones(1, 7, 1, D, dtype=torch.float64))[0, :, 0]
    torch.testing.assert_close(same[0] @ same[3], same[3] @ same[6])


def test_scores_do_not_see_the_padding() -> None:
    head = head_of().eval()
    hidden = torch.randn(1, 4, H, dtype=torch.float64)
    short = head(BaseModelOutput(last_hidden_state=hidden), torch.ones(1, 4))["logits"]  # type: ignore[arg-type]
    padded = torch.cat([hidden, torch.full((1, 3, H), 7.0, dtype=torch.float64)], dim=1)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
    long = head(BaseModelOutput(last_hidden_state=padded), mask)["logits"]  # type: ignore[arg-type]
    torch.testing.assert_close(long[:, :, :4, :4], short)
    assert (long[:, :, 4:] == IMPOSSIBLE_SCORE).all() and (long[:, :, :, 4:] == IMPOSSIBLE_SCORE).all()


def test_scores_are_fp32_under_autocast_and_in_a_bf16_model() -> None:
    hidden, mask = torch.randn(1, 4, H), torch.ones(1, 4)
    head = GlobalPointer(H, C, inner_dim=D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(BaseModelOutput(last_hidden_state=hidden), mask)["logits"].dtype == torch.float32  # type: ignore[arg-type]
    half = GlobalPointer(H, C, inner_dim=D, efficient=True).bfloat16()
    logits = half(BaseModelOutput(last_hidden_state=hidden.bfloat16()), mask)["logits"]  # type: ignore[arg-type]
    assert logits.dtype == torch.float32 and logits.isfinite().all()


@pytest.mark.parametrize("inner_dim", [0, 7])
def test_an_odd_inner_dim_is_refused(inner_dim: int) -> None:
    with pytest.raises(ModelError, match="even"):
        GlobalPointer(H, C, inner_dim=inner_dim)


def naive_loss(logits: torch.Tensor, entities: set[tuple[int, int, int]]) -> float:
    total = 0.0
    for kind in range(logits.shape[0]):
        negative = positive = 1.0
        for i in range(logits.shape[1]):
            for j in range(i, logits.shape[1]):
                score = logits[kind, i, j].item()
                if score <= IMPOSSIBLE_SCORE / 2:
                    continue
                if (kind, i, j) in entities:
                    positive += math.exp(-score)
                else:
                    negative += math.exp(score)
        total += math.log(negative) + math.log(positive)
    return total


ENTITIES = [{(0, 1, 2), (2, 1, 3), (2, 1, 1)}, set(), {(1, 0, 0), (1, 3, 4)}]


def grid(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.zeros(3, C, length, length)
    spans = torch.full((3, 4, 3), -1)
    for row, entities in enumerate(ENTITIES):
        for k, (kind, i, j) in enumerate(sorted(entities)):
            labels[row, kind, i, j] = 1
            spans[row, k] = torch.tensor([kind, i, j])
    return labels, spans


def masked_logits(length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(3, C, length, length, generator=generator, dtype=torch.float64) * 4
    token_mask = torch.ones(3, length)
    token_mask[2, 2] = 0
    return mask_spans(logits, token_mask)


def test_both_losses_equal_the_naive_sum() -> None:
    logits = masked_logits(5)
    labels, spans = grid(5)
    dense, sparse = global_pointer_loss(logits, labels), sparse_global_pointer_loss(logits, spans)
    for row, entities in enumerate(ENTITIES):
        expected = naive_loss(logits[row], entities)
        assert dense[0][row].item() == pytest.approx(expected, rel=1e-10)
        assert sparse[0][row].item() == pytest.approx(expected, rel=1e-10)
    assert dense[1].tolist() == sparse[1].tolist() == [C, C, C]


def test_both_losses_have_the_gradient_of_finite_differences() -> None:
    labels, spans = grid(5)
    logits = masked_logits(5).requires_grad_()
    grads = [
        torch.autograd.grad(loss(logits, target)[0].sum(), logits)[0]
        for loss, target in ((global_pointer_loss, labels), (sparse_global_pointer_loss, spans))
    ]
    torch.testing.assert_close(grads[0], grads[1])
    assert torch.autograd.gradcheck(
        lambda scores: sparse_global_pointer_loss(scores, spans)[0], (torch.randn_like(logits).requires_grad_(),)
    )
    assert (grads[0][masked_logits(5) == IMPOSSIBLE_SCORE] == 0).all()


def test_an_entity_on_an_impossible_cell_is_no_candidate() -> None:
    logits = mask_spans(torch.zeros(1, C, 3, 3), torch.tensor([[1, 1, 0]]))
    labels = torch.zeros(1, C, 3, 3)
    labels[0, 0, 1, 2] = 1
    spans = torch.tensor([[[0, 1, 2]]])
    none = global_pointer_loss(logits, torch.zeros_like(labels))[0]
    torch.testing.assert_close(global_pointer_loss(logits, labels)[0], none)
    torch.testing.assert_close(sparse_global_pointer_loss(logits, spans)[0], none)


def test_large_scores_and_half_precision_stay_finite() -> None:
    logits = mask_spans(torch.full((1, C, 3, 3), 3e4), torch.ones(1, 3))
    labels, spans = torch.zeros(1, C, 3, 3), torch.full((1, 1, 3), -1)
    assert global_pointer_loss(logits, labels)[0].isfinite().all()
    total, count = sparse_global_pointer_loss(logits.bfloat16(), spans)
    assert total.isfinite().all() and total.dtype == count.dtype == torch.float32


def test_no_spans_at_all_have_a_loss() -> None:
    logits = masked_logits(5)
    empty = torch.zeros(3, 0, 3, dtype=torch.int64)
    expected = global_pointer_loss(logits, torch.zeros_like(logits))[0]
    torch.testing.assert_close(sparse_global_pointer_loss(logits, empty)[0], expected)
