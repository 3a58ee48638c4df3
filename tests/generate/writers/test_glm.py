"""A GLM's blanks, one after the other, in rows that open them at different steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.generate.writers.tiny import COMMANDS, VOCAB, build, uncached

from flagai.errors import DataError
from flagai.generate.writers.base import Prompt
from flagai.generate.writers.glm import GLMWriter

BOUND = 5e-5
THREE = Prompt(ids=(30, 36, 4, 37, 8, 36, 31), blanks=(1, 3, 5))
ONE = Prompt(ids=(30, 5, 9, 9, 36, 31), blanks=(4,))
TWO = Prompt(ids=(30, 36, 36, 31), blanks=(1, 2))
END = COMMANDS.eop


def writer() -> GLMWriter:
    return GLMWriter(build("glm"), COMMANDS)


def after(prompt: Prompt, *answers: tuple[int, ...]) -> torch.Tensor:
    """The slow twin's scores where the last of these answers goes on."""
    *done, last = answers
    places = prompt.blanks
    given = tuple(zip(places, done, strict=False))
    now = Prompt(ids=prompt.ids, blanks=places[len(done) :], answers=given, written=last)
    return uncached("glm", now, [])[0]


def check(found: torch.Tensor, *expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, torch.stack(expected), atol=BOUND, rtol=BOUND)


@torch.inference_mode()
def test_each_row_opens_its_next_blank_when_it_is_ready() -> None:
    glm = writer()
    check(glm.begin([THREE, ONE]), after(THREE, ()), after(ONE, ()))
    check(glm.feed(torch.tensor([7, 8])), after(THREE, (7,)), after(ONE, (8,)))
    # What the token says does not matter where a blank begins: an end is not read.
    found = glm.feed(torch.tensor([END, 9]), torch.tensor([True, False]))
    check(found, after(THREE, (7,), ()), after(ONE, (8, 9)))
    check(glm.begin([TWO]), after(TWO, ()))
    # An empty answer: one blank after the other is opened at once.
    found = glm.feed(torch.tensor([END, 3, END]), torch.tensor([True, False, True]))
    check(found, after(THREE, (7,), (), ()), after(ONE, (8, 9, 3)), after(TWO, (), ()))
    glm.select(torch.tensor([2, 0, 0]))
    found = glm.feed(torch.tensor([5, 6, 7]), torch.zeros(3, dtype=torch.bool))
    check(found, after(TWO, (), (5,)), after(THREE, (7,), (), (6,)), after(THREE, (7,), (), (7,)))
    check(glm.feed(torch.tensor([2, 2, 2]))[1:2], after(THREE, (7,), (), (6, 2)))


@torch.inference_mode()
def test_answers_that_are_given_are_as_if_they_were_written() -> None:
    glm = writer()
    given = Prompt(ids=THREE.ids, blanks=THREE.blanks[2:], answers=((1, (7, 8)), (3, ())), written=(6,))
    check(glm.begin([ONE, given]), after(ONE, ()), after(THREE, (7, 8), (), (6,)))
    check(glm.feed(torch.tensor([4, 5])), after(ONE, (4,)), after(THREE, (7, 8), (), (6, 5)))


@torch.inference_mode()
def test_beams_of_one_text_open_their_next_blanks_apart() -> None:
    glm = writer()
    glm.begin([TWO])
    glm.select(torch.tensor([0, 0]))
    glm.feed(torch.tensor([5, 6]), torch.tensor([True, False]))
    check(glm.feed(torch.tensor([5, 7])), after(TWO, (), (5,)), after(TWO, (6, 7)))


@torch.inference_mode()
def test_a_model_that_attends_to_pads_depends_on_no_other_row_either() -> None:
    """The published English models do; what they are told are pads is of other rows' making."""
    model: Any = copy.deepcopy(build("glm"))
    model.config.attend_to_pads = True
    glm = GLMWriter(model, COMMANDS)
    check(glm.begin([THREE, ONE]), after(THREE, ()), after(ONE, ()))
    check(glm.feed(torch.tensor([7, 8])), after(THREE, (7,)), after(ONE, (8,)))
    check(glm.feed(torch.tensor([END, 9]), torch.tensor([True, False])), after(THREE, (7,), ()), after(ONE, (8, 9)))


def test_room_is_what_the_table_of_block_positions_has() -> None:
    glm = writer()
    assert (glm.room(ONE), glm.room(TWO)) == (32, 31)
    with pytest.raises(DataError, match="33 tokens"):
        glm.room(Prompt(ids=(36,) * 33, blanks=(0,)))
    with pytest.raises(DataError, match="no mask"):
        glm.room(Prompt(ids=(5, 6)))
    with pytest.raises(DataError, match="empty"):
        glm.room(Prompt(ids=(), blanks=(0,)))


@torch.inference_mode()
def test_an_answer_as_long_as_there_is_room() -> None:
    """The last of them is not read where no blank follows, so its position need not be in the table."""
    glm = writer()
    glm.begin([ONE])
    tokens = tuple(2 + i % 20 for i in range(31))
    for token in tokens:
        found = glm.feed(torch.tensor([token]))
    assert found.shape == (1, VOCAB)
    check(found, after(ONE, tokens))
    with pytest.raises(DataError, match="not in the table"):
        glm.feed(torch.tensor([5]))
