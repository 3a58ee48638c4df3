"""Classification and choice on a GLM."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.models.glm.conftest import lively
from torch import Tensor
from transformers import AutoModelForMultipleChoice, AutoModelForSequenceClassification

import flagai.models.glm.registration  # noqa: F401 - the Auto classes
from flagai.errors import DataError
from flagai.models.glm.heads import GLMForMultipleChoice, GLMForSequenceClassification
from flagai.models.glm.modeling import GLMForConditionalGeneration

SOP = 58


def test_the_three_tokens_a_classifier_may_look_at(filling: dict[str, Tensor]) -> None:
    lengths = torch.tensor([8, 3, 5, 4, 2])
    call = {"input_ids": filling["input_ids"], "context_length": lengths}
    for pool, places in {"cls": torch.zeros(5, dtype=torch.long), "start": lengths, "pad": lengths - 1}.items():
        model = lively(GLMForSequenceClassification, pool_token=pool, num_labels=3)
        with torch.no_grad():
            hidden = model.glm(**call).last_hidden_state[torch.arange(5), places]
            expected = model.out_proj(torch.tanh(model.dense(hidden)))
            assert torch.allclose(model(**call).logits, expected)
            separator = {"input_ids": filling["input_ids"], "attention_mask": lengths}
            assert torch.allclose(model(**separator).logits, expected)


def test_left_pads_do_not_hide_the_first_token(filling: dict[str, Tensor]) -> None:
    model = lively(GLMForSequenceClassification, num_labels=3)
    ids = torch.tensor([[5, 6, 7, 8]])
    positions = torch.tensor([[[0, 1, 2, 3], [0, 0, 0, 0]]])
    with torch.no_grad():
        alone = model(ids, position_ids=positions).logits
        padded = model(
            torch.nn.functional.pad(ids, (2, 0)),
            attention_mask=torch.tensor([[0, 0, 1, 1, 1, 1]]),
            position_ids=torch.nn.functional.pad(positions, (2, 0)),
        ).logits
    assert (alone - padded).abs().max() < 1e-5


def test_pooling_at_the_separator_needs_one() -> None:
    with pytest.raises(DataError, match="needs context_length"):
        lively(GLMForSequenceClassification, pool_token="start")(torch.ones(1, 3, dtype=torch.long))


def test_no_answer_token_to_look_at() -> None:
    model = lively(GLMForSequenceClassification, pool_token="start")
    with pytest.raises(DataError, match="behind the context"):
        model(torch.ones(1, 3, dtype=torch.long), context_length=torch.tensor([3]))


def test_losses_of_a_classifier(filling: dict[str, Tensor]) -> None:
    model = lively(GLMForSequenceClassification, num_labels=3)
    ids = filling["input_ids"]
    one, many = torch.tensor([0, 1, 2, 0, 1]), torch.randint(0, 2, (5, 3))
    logits = model(ids).logits
    assert torch.allclose(model(ids, labels=one).loss, torch.nn.functional.cross_entropy(logits, one))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, many.float())
    assert torch.allclose(model(ids, labels=many).loss, expected)


def packed_choices(context: list[int], blank: int, choices: list[list[int]]) -> dict[str, object]:
    """All candidates behind one context; built here by hand, token by token."""
    n = len(context)
    ids, positions, blocks, places, owner = list(context), list(range(n)), [0] * n, [], [-1] * n
    for number, choice in enumerate(choices):
        places.append(torch.arange(len(ids), len(ids) + len(choice)))
        ids += [SOP, *choice[:-1]]
        positions += [blank] * len(choice)
        blocks += range(1, len(choice) + 1)
        owner += [number] * len(choice)
    mask = torch.tensor(
        [[int(owner[j] == -1 or (owner[j] == owner[i] and j <= i)) for j in range(len(ids))] for i in range(len(ids))]
    )
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([[positions, blocks]]),
        "attention_mask": mask[None, None],
        "choice_ids": [[torch.tensor(choice) for choice in choices]],
        "choice_indices": [places],
    }


CHOICES = [[11], [12, 13, 14], [15, 16]]


def test_candidates_packed_after_one_context_equal_one_by_one() -> None:
    model, context, blank = lively(GLMForMultipleChoice), [5, 6, 1, 7], 2
    plain = GLMForConditionalGeneration(model.config).eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        scores = model(**packed_choices(context, blank, CHOICES)).logits
        for number, choice in enumerate(CHOICES):
            n, m = len(context), len(choice)
            logits = plain(
                torch.tensor([[*context, SOP, *choice[:-1]]]),
                context_length=torch.tensor([n]),
                position_ids=torch.tensor([[[*range(n), *([blank] * m)], [*([0] * n), *range(1, m + 1)]]]),
            ).logits[0, n:]
            expected = logits.log_softmax(-1)[torch.arange(m), torch.tensor(choice)].sum()
            assert scores[0, number].item() == pytest.approx(expected.item(), abs=1e-4)


def test_fewer_candidates_in_a_row_score_minus_infinity_and_the_loss_is_finite() -> None:
    model = lively(GLMForMultipleChoice)
    call = packed_choices([5, 6, 1, 7], 2, CHOICES)
    two = {name: torch.cat([v, v]) if isinstance(v, Tensor) else [*v, v[0][:1]] for name, v in call.items()}  # type: ignore[index]
    outputs = model(**two, labels=torch.tensor([2, 0]))
    assert outputs.logits[1].tolist()[1:] == [float("-inf")] * 2
    assert torch.isfinite(outputs.loss)
    outputs.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_candidates_that_make_no_sense() -> None:
    model = lively(GLMForMultipleChoice)
    call = packed_choices([5, 6, 1, 7], 2, CHOICES)
    with pytest.raises(DataError, match="no candidates"):
        model(**(call | {"choice_ids": None}))
    with pytest.raises(DataError, match="at least one"):
        model(**(call | {"choice_ids": [[]], "choice_indices": [[]]}))
    with pytest.raises(DataError, match="a token id is outside"):
        model(**(call | {"choice_ids": [[torch.tensor([99]), *call["choice_ids"][0][1:]]]}))  # type: ignore[index]
    with pytest.raises(DataError, match="a place is outside"):
        model(**(call | {"choice_indices": [[torch.tensor([99]), *call["choice_indices"][0][1:]]]}))  # type: ignore[index]
    with pytest.raises(DataError, match="for 1 rows"):
        model(**(call | {"choice_indices": []}))
    with pytest.raises(DataError, match="more tokens than places"):
        model(**(call | {"choice_ids": [[torch.tensor([1, 2]), *call["choice_ids"][0][1:]]]}))  # type: ignore[index]


@pytest.mark.parametrize(
    ("cls", "auto"),
    [
        (GLMForSequenceClassification, AutoModelForSequenceClassification),
        (GLMForMultipleChoice, AutoModelForMultipleChoice),
    ],
)
def test_saved_and_loaded_again(cls: type, auto: type, tmp_path: Path) -> None:
    model = lively(cls, num_labels=4)
    model.save_pretrained(tmp_path)
    again = auto.from_pretrained(tmp_path)
    assert type(again) is cls
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
