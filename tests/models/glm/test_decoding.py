"""transformers' generate() on a GLM: every cache and way of searching writes what a plain loop without cache writes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.models.glm.conftest import lively
from torch import Tensor

from flagai.errors import DataError, ModelError

SOP, EOP = 58, 59
CONTEXTS = ([5, 6, 7, 8, 9, 1], [7, 3, 2, 1], [9, 1, 4, 4, 4, 4, 2])
BLANKS = (5, 3, 1)
NEW = 10


def one(row: int) -> dict[str, Tensor]:
    context, blank = CONTEXTS[row], BLANKS[row]
    n = len(context)
    return {
        "input_ids": torch.tensor([[*context, SOP]]),
        "position_ids": torch.tensor([[[*range(n), blank], [*([0] * n), 1]]]),
        "context_length": torch.tensor([n]),
    }


def batch() -> dict[str, Tensor]:
    longest = max(map(len, CONTEXTS))
    rows = [one(row) for row in range(len(CONTEXTS))]
    pads = [longest - len(context) for context in CONTEXTS]

    def left(name: str) -> Tensor:
        return torch.cat([torch.nn.functional.pad(row[name], (pad, 0)) for row, pad in zip(rows, pads, strict=True)])

    mask = torch.stack([(torch.arange(longest + 1) >= pad).long() for pad in pads])
    return {
        "input_ids": left("input_ids"),
        "position_ids": left("position_ids"),
        "attention_mask": mask,
        "context_length": torch.full((len(rows),), longest),
    }


def oracle(model: Any, row: int) -> list[int]:
    """Greedy, everything computed anew for every token, with an explicit position list."""
    call = one(row)
    written: list[int] = []
    with torch.no_grad():
        while len(written) < NEW:
            logits = model(**call).logits[0, -1]
            token = int(logits.argmax())
            written.append(token)
            if token == EOP:
                break
            next_position = torch.tensor([[[BLANKS[row]], [len(written) + 1]]])
            call["input_ids"] = torch.cat([call["input_ids"], torch.tensor([[token]])], 1)
            call["position_ids"] = torch.cat([call["position_ids"], next_position], -1)
    return written


def written_by(model: Any, call: dict[str, Tensor], **options: Any) -> list[list[int]]:
    ids = model.generate(**call, max_new_tokens=NEW, do_sample=False, **options)
    rows = ids[:, call["input_ids"].shape[1] :].tolist()
    return [row[: row.index(EOP) + 1] if EOP in row else row for row in rows]


CACHES: dict[str, dict[str, Any]] = {
    "dynamic": {"cache_implementation": "dynamic"},
    "static": {"cache_implementation": "static"},
    "none": {"use_cache": False},
}


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("seed", [0, 4])
def test_greedy_equals_the_plain_loop(cache: str, seed: int) -> None:
    model = lively(seed=seed)
    expected = [oracle(model, row) for row in range(len(CONTEXTS))]
    assert expected[0] != expected[1]
    assert [written_by(model, one(row), **CACHES[cache])[0] for row in range(len(CONTEXTS))] == expected
    assert written_by(model, batch(), **CACHES[cache]) == expected


@pytest.mark.parametrize("seed", [0, 4])
def test_beams_are_equal_for_all_caches_and_batches(seed: int) -> None:
    model = lively(seed=seed)
    alone = [written_by(model, one(row), num_beams=3, **CACHES["none"])[0] for row in range(len(CONTEXTS))]
    for cache in ("dynamic", "static"):
        assert written_by(model, batch(), num_beams=3, **CACHES[cache]) == alone
    assert alone != [oracle(model, row) for row in range(len(CONTEXTS))]


def test_several_answers_of_one_context() -> None:
    model = lively()
    torch.manual_seed(0)
    call = batch()
    ids = model.generate(**call, max_new_tokens=4, do_sample=True, num_return_sequences=3)
    assert ids.shape[0] == 9
    assert torch.equal(ids[:, : call["input_ids"].shape[1]], call["input_ids"].repeat_interleave(3, 0))


def test_what_the_remote_code_builds_is_understood() -> None:
    """One tensor of positions for context and answer, and a mask over both."""
    model, call = lively(), one(0)
    n = call["input_ids"].shape[1] - 1
    positions = torch.cat(
        [call["position_ids"], torch.stack([torch.full((NEW,), BLANKS[0]), torch.arange(2, NEW + 2)])[None]], -1
    )
    mask = torch.ones(n + NEW, n + NEW, dtype=torch.long).tril()
    mask[:, :n] = 1
    original = {
        "input_ids": call["input_ids"],
        "position_ids": positions,
        "generation_attention_mask": mask[None, None],
    }
    assert written_by(model, original) == [oracle(model, 0)]


def test_too_few_positions() -> None:
    call = one(0)
    with pytest.raises(DataError, match="3 positions for 7 tokens"):
        lively().generate(**(call | {"position_ids": call["position_ids"][..., :3]}), max_new_tokens=2)


@pytest.mark.parametrize("name", ["assistant_model", "prompt_lookup_num_tokens", "prefill_chunk_size"])
def test_ways_that_know_no_blank_positions_are_refused(name: str) -> None:
    model = lively()
    with pytest.raises(ModelError, match=name):
        model.generate(**one(0), max_new_tokens=2, **{name: model if name == "assistant_model" else 4})


def test_an_answer_beyond_the_table() -> None:
    with pytest.raises(DataError, match="not in the table"):
        lively().generate(**one(0), max_new_tokens=60, eos_token_id=None)


def test_left_to_right_without_positions() -> None:
    """A plain language model: tokens are counted on, and nothing is context."""
    model = lively()
    ids = torch.tensor([[5, 6, 7]])
    expected = ids
    with torch.no_grad():
        for _ in range(5):
            token = model(expected).logits[:, -1:].argmax(-1)
            expected = torch.cat([expected, token], 1)
    assert torch.equal(model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None), expected)
