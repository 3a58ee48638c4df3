"""The CRF loss against the sum over all paths, its gradient against finite differences."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from transformers.modeling_outputs import TokenClassifierOutput

from flagai.errors import ModelError
from flagai.models.crf import CRF, FORBIDDEN_SCORE, crf_negative_log_likelihood

Chain = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def chain(num_tags: int, seed: int = 0) -> Chain:
    generator = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return make(num_tags, num_tags), make(num_tags), make(num_tags)


def path_score(emissions: torch.Tensor, path: tuple[int, ...], scores: Chain) -> float:
    transitions, start, end = scores
    total = start[path[0]] + end[path[-1]] + sum(emissions[i, tag] for i, tag in enumerate(path))
    return float(total + sum(transitions[a, b] for a, b in itertools.pairwise(path)))


def brute_nll(emissions: torch.Tensor, tags: list[int], scores: Chain) -> float:
    if not tags:
        return 0.0
    paths = itertools.product(range(emissions.shape[1]), repeat=len(tags))
    log_z = math.log(sum(math.exp(path_score(emissions, path, scores)) for path in paths))
    return log_z - path_score(emissions, tuple(tags), scores)


@pytest.mark.parametrize("num_tags", [1, 2, 3, 4])
def test_nll_equals_the_sum_over_all_paths_for_every_mask_of_five_positions(num_tags: int) -> None:
    masks = torch.tensor(list(itertools.product([0, 1], repeat=5)))
    generator = torch.Generator().manual_seed(num_tags)
    emissions = torch.randn(len(masks), 5, num_tags, generator=generator, dtype=torch.float64) * 3
    tags = torch.randint(0, num_tags, masks.shape, generator=generator)
    scores = chain(num_tags)
    found = crf_negative_log_likelihood(emissions, tags.masked_fill(masks == 0, -100), masks, *scores)
    for row, mask in enumerate(masks.bool()):
        expected = brute_nll(emissions[row, mask], tags[row, mask].tolist(), scores)
        assert found[row].item() == pytest.approx(expected, abs=1e-10)


def test_nll_does_not_see_the_batch_or_what_stands_under_the_mask() -> None:
    generator = torch.Generator().manual_seed(1)
    emissions = torch.randn(3, 6, 3, generator=generator)
    tags = torch.randint(0, 3, (3, 6), generator=generator)
    mask = torch.tensor([[0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    scores = tuple(score.float() for score in chain(3))
    together = crf_negative_log_likelihood(emissions, tags, mask, *scores)
    dirty = crf_negative_log_likelihood(emissions + 99 * (1 - mask[..., None]), tags, mask, *scores)
    torch.testing.assert_close(dirty, together)
    for row in range(3):
        alone = crf_negative_log_likelihood(emissions[row : row + 1], tags[row : row + 1], mask[row : row + 1], *scores)
        torch.testing.assert_close(alone[0], together[row])


def test_gradients_equal_finite_differences_and_are_zero_under_the_mask() -> None:
    mask = torch.tensor([[0, 1, 0, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    tags = torch.tensor([[-100, 2, -100, 0, 1], [1, 1, -100, -100, -100], [-100] * 5])
    generator = torch.Generator().manual_seed(2)
    emissions = torch.randn(3, 5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    scores = tuple(score.requires_grad_() for score in chain(3))

    def loss(*inputs: torch.Tensor) -> torch.Tensor:
        return crf_negative_log_likelihood(inputs[0], tags, mask, *inputs[1:])

    assert torch.autograd.gradcheck(loss, (emissions, *scores))
    loss(emissions, *scores).sum().backward()
    assert emissions.grad is not None
    assert (emissions.grad[mask == 0] == 0).all()
    assert (emissions.grad[mask == 1] != 0).all()


def test_a_batch_without_any_tag_costs_nothing_and_still_has_a_gradient() -> None:
    emissions = torch.randn(2, 3, 3, requires_grad=True)
    loss = crf_negative_log_likelihood(emissions, torch.full((2, 3), -100), torch.zeros(2, 3), *chain(3))
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0]
    assert emissions.grad is not None and not emissions.grad.any()


def test_bf16_emissions_are_summed_in_fp32() -> None:
    emissions = torch.full((1, 400, 2), 1.0, dtype=torch.bfloat16)
    zeros = torch.zeros(2, 2), torch.zeros(2), torch.zeros(2)
    loss = crf_negative_log_likelihood(emissions, torch.zeros(1, 400, dtype=torch.int64), torch.ones(1, 400), *zeros)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(400 * math.log(2), rel=1e-5)


def test_without_transitions_it_is_the_softmax_cross_entropy() -> None:
    head = CRF(8, 4)
    emissions = torch.randn(2, 5, 4)
    tags = torch.randint(0, 4, (2, 5))
    out = head(TokenClassifierOutput(logits=emissions), torch.ones(2, 5))  # type: ignore[arg-type]
    assert out["logits"] is emissions
    shared = [out[name] for name in ("transitions", "start_transitions", "end_transitions")]
    found = crf_negative_log_likelihood(emissions, tags, torch.ones(2, 5), *shared)
    expected = torch.nn.functional.cross_entropy(emissions.transpose(1, 2), tags, reduction="none").sum(1)
    torch.testing.assert_close(found, expected)


def test_the_scale_multiplies_scores_and_gradients() -> None:
    emissions, tags = torch.randn(1, 3, 2), torch.tensor([[0, 1, 1]])
    grads = []
    for scale in (1.0, 50.0):
        head = CRF(8, 2, transition_scale=scale)
        out = head(TokenClassifierOutput(logits=emissions), torch.ones(1, 3))  # type: ignore[arg-type]
        shared = [out[name] for name in ("transitions", "start_transitions", "end_transitions")]
        crf_negative_log_likelihood(emissions, tags, torch.ones(1, 3), *shared).sum().backward()
        grads.append(head.transitions.grad)
    torch.testing.assert_close(grads[1], grads[0] * 50.0)


def test_forbidden_moves_score_low_and_learn_nothing() -> None:
    allowed = {"start": [True, False], "between": [[True, False], [True, True]], "end": [True, True]}
    head = CRF(8, 2, allowed=allowed)
    torch.manual_seed(0)
    torch.nn.init.normal_(head.transitions)
    out = head(TokenClassifierOutput(logits=torch.zeros(1, 2, 2)), torch.ones(1, 2))  # type: ignore[arg-type]
    assert out["start_transitions"].tolist() == [0.0, FORBIDDEN_SCORE]
    assert out["transitions"][0, 1].item() == FORBIDDEN_SCORE
    assert out["transitions"][1, 1].item() == pytest.approx(head.transitions[1, 1].item() * 100)
    # Only O O is a path of the grammar: its probability is one.
    shared = [out[name] for name in ("transitions", "start_transitions", "end_transitions")]
    tags = torch.zeros(1, 2, dtype=torch.int64)
    loss = crf_negative_log_likelihood(torch.randn(1, 2, 2), tags, torch.ones(1, 2), *shared)
    assert loss.item() == pytest.approx(0.0, abs=1e-4)  # of scores in the hundreds, in fp32
    loss.sum().backward()
    assert head.transitions.grad is not None and head.transitions.grad[0, 1] == 0


@pytest.mark.parametrize(
    "broken", [{"start": [True]}, {"start": [True] * 2, "between": [[True] * 2], "end": [True] * 2}]
)
def test_a_grammar_of_the_wrong_shape_is_refused(broken: dict) -> None:
    with pytest.raises(ModelError, match="shape"):
        CRF(8, 2, allowed=broken)
