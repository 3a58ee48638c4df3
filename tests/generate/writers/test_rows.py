"""What holds for the writer of every family: cached is uncached, and no row depends on another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.generate.writers import tiny
from tests.generate.writers.tiny import DECODERS, FAMILIES, build, prompts_of, uncached, writer_of
from torch import Tensor

BOUND = 5e-5
STEPS = 5
FED = torch.randint(2, 29, (STEPS, 4), generator=torch.Generator().manual_seed(3))
"""a token for each step and prompt; none of GLM's control tokens"""


def expected(name: str, row: int, steps: int, attention: str = "sdpa") -> Tensor:
    return uncached(name, prompts_of(name)[row], FED[:steps, row].tolist(), attention)[0]


def check(name: str, found: Tensor, rows: list[int], steps: list[int], attention: str = "sdpa") -> None:
    """Each row of `found` has the scores of the prompt `rows[i]` after `steps[i]` tokens."""
    assert found.dtype == torch.float32 and found.shape == (len(rows), tiny.VOCAB)
    for scores, row, count in zip(found, rows, steps, strict=True):
        torch.testing.assert_close(scores, expected(name, row, count, attention), atol=BOUND, rtol=BOUND)


def test_the_slow_twin_tells_rows_and_steps_apart() -> None:
    """Else equality to it would say nothing."""
    for name in FAMILIES:
        found = [expected(name, row, count) for row in range(4) for count in (0, 2)]
        nearest = min(float((a - b).abs().max()) for i, a in enumerate(found) for b in found[:i])
        assert nearest > 1000 * BOUND, name


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "attention"),
    [(name, "sdpa") for name in FAMILIES] + [(name, "eager") for name in FAMILIES if name != "bloom"],  # it has but one
)
def test_a_batch_of_mixed_lengths_is_each_alone_uncached(name: str, attention: str) -> None:
    writer = writer_of(name, attention)
    found = writer.begin(prompts_of(name))
    for step in range(STEPS):
        check(name, found, [0, 1, 2, 3], [step] * 4, attention)
        found = writer.feed(FED[step])
    check(name, found, [0, 1, 2, 3], [STEPS] * 4, attention)


@torch.inference_mode()
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 3, 1, 0), (1, 2, 0, 3)])
@pytest.mark.parametrize("name", FAMILIES)
def test_rows_that_join_later_and_leave_are_each_alone(name: str, order: tuple[int, ...]) -> None:
    """Short ones join long ones and long ones join short ones; leaving rows free columns that others stood behind."""
    prompts, writer = prompts_of(name), writer_of(name)
    a, b, c, d = order
    check(name, writer.begin([prompts[a]]), [a], [0])
    check(name, writer.feed(FED[0, [a]]), [a], [1])
    check(name, writer.begin([prompts[b], prompts[c]]), [b, c], [0, 0])
    check(name, writer.feed(torch.stack([FED[1, a], FED[0, b], FED[0, c]])), [a, b, c], [2, 1, 1])
    writer.select(torch.tensor([2, 1]))
    check(name, writer.feed(torch.stack([FED[1, c], FED[1, b]])), [c, b], [2, 2])
    check(name, writer.begin([prompts[d]]), [d], [0])
    check(name, writer.feed(torch.stack([FED[2, c], FED[2, b], FED[0, d]])), [c, b, d], [3, 3, 1])
    writer.select(torch.tensor([1]))
    check(name, writer.feed(FED[3, [b]]), [b], [4])
    check(name, writer.begin([prompts[a]]), [a], [0])
    check(name, writer.feed(torch.stack([FED[4, b], FED[0, a]])), [b, a], [5, 1])


@torch.inference_mode()
@pytest.mark.parametrize("name", FAMILIES)
def test_rows_are_repeated_reordered_and_all_dropped(name: str) -> None:
    prompts, writer = prompts_of(name), writer_of(name)
    writer.begin(prompts[:3])
    writer.select(torch.tensor([0, 0, 1, 1, 2, 2]))
    check(name, writer.feed(FED[0, [0, 0, 1, 1, 2, 2]]), [0, 0, 1, 1, 2, 2], [1] * 6)
    # As beams do: places change within a prompt, then among prompts.
    for rows in ([1, 1, 3, 2, 5, 5], [5, 4, 1, 0, 2, 2]):
        writer.select(torch.tensor(rows))
    order = [2, 2, 0, 0, 1, 1]
    check(name, writer.feed(FED[1, order]), order, [2] * 6)
    writer.select(torch.tensor([], dtype=torch.long))
    check(name, writer.begin(prompts[3:]), [3], [0])
    check(name, writer.feed(FED[0, [3]]), [3], [1])


@torch.inference_mode()
@pytest.mark.parametrize("name", FAMILIES)
def test_rows_that_were_read_apart_change_places(name: str) -> None:
    prompts, writer = prompts_of(name), writer_of(name)
    for prompt in prompts[:2]:
        writer.begin([prompt])
    writer.select(torch.tensor([1, 0]))
    check(name, writer.feed(FED[0, [1, 0]]), [1, 0], [1, 1])


@torch.inference_mode()
@pytest.mark.parametrize("name", FAMILIES)
def test_beams_part_and_their_rows_differ(name: str) -> None:
    """Two rows of one prompt that got different tokens keep to their own."""
    prompt, writer = prompts_of(name)[2], writer_of(name)
    writer.begin([prompt])
    writer.select(torch.tensor([0, 0]))
    writer.feed(torch.tensor([7, 8]))
    writer.select(torch.tensor([1, 0]))
    found = writer.feed(torch.tensor([9, 10]))
    for scores, fed in zip(found, ([8, 9], [7, 10]), strict=True):
        torch.testing.assert_close(scores, uncached(name, prompt, fed)[0], atol=BOUND, rtol=BOUND)


@torch.inference_mode()
@pytest.mark.parametrize("name", FAMILIES)
def test_hidden_states_are_those_that_the_scores_come_from(name: str) -> None:
    writer, prompts = writer_of(name), prompts_of(name)
    writer.begin(prompts[:1])
    assert len(writer.hidden()) == 0
    writer.keep_hidden = True
    writer.begin(prompts[1:])
    states = writer.hidden()
    lengths = [len(p.ids) + len(p.written) for p in prompts[1:]]
    if name in tiny.ENCODER_DECODERS:
        lengths = [1, 1, 3]
    elif name == "glm":
        lengths = [4, 9 + 3 + 1, 5 + 3]
    assert [len(one) for one in states] == lengths
    for row, one in enumerate(states, start=1):
        torch.testing.assert_close(one[-1], uncached(name, prompts[row], [])[1], atol=BOUND, rtol=BOUND)
    writer.feed(FED[0])
    assert [tuple(one.shape) for one in writer.hidden()] == [(1, 16)] * 4
    for row in range(4):
        state = uncached(name, prompts[row], FED[:1, row].tolist())[1]
        torch.testing.assert_close(writer.hidden()[row][0], state, atol=BOUND, rtol=BOUND)


@torch.inference_mode()
@pytest.mark.parametrize("name", FAMILIES)
def test_a_given_prefix_is_as_if_it_were_fed(name: str) -> None:
    import dataclasses

    prompt, writer = prompts_of(name)[3], writer_of(name)
    given = writer.begin([prompt])
    writer.select(torch.tensor([], dtype=torch.long))
    writer.begin([dataclasses.replace(prompt, written=())])
    for token in prompt.written:
        fed = writer.feed(torch.tensor([token]))
    torch.testing.assert_close(given, fed, atol=BOUND, rtol=BOUND)


@torch.inference_mode()
@pytest.mark.parametrize("name", FAMILIES)
def test_no_prompt_is_no_row(name: str) -> None:
    writer = writer_of(name)
    assert writer.begin([]).shape == (0, tiny.VOCAB)
    writer.begin(prompts_of(name)[:1])
    assert len(writer.begin([])) == 0
    check(name, writer.feed(FED[0, :1]), [0], [1])


@torch.inference_mode()
@pytest.mark.parametrize("name", ["gpt2", "t5", "bart", "bert", "glm"])
def test_half_precision_has_scores_in_full(name: str) -> None:
    import copy

    from flagai.generate.writers.make import make_writer

    model: Any = copy.deepcopy(build(name)).to(torch.bfloat16)
    writer = make_writer(model, commands=tiny.COMMANDS, fast=False)
    writer.begin(prompts_of(name))
    assert writer.feed(FED[0]).dtype == torch.float32


@torch.inference_mode()
@pytest.mark.parametrize("name", DECODERS)
def test_a_long_answer_outgrows_its_buffer(name: str) -> None:
    """Past the columns that a buffer is made with, and past what a sliding window sees."""
    steps = 140 if name == "bloom" else 26  # the others have 32 positions here
    writer, prompt = writer_of(name), prompts_of(name)[2]
    tokens = torch.randint(2, 29, (steps,), generator=torch.Generator().manual_seed(1)).tolist()
    writer.begin([prompts_of(name)[0], prompt])
    for token in tokens:
        found = writer.feed(torch.tensor([token, token]))
    torch.testing.assert_close(found[1], uncached(name, prompt, tokens)[0], atol=2 * BOUND, rtol=BOUND)
