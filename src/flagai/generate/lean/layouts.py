"""How a prompt is laid out for a decoder: its tokens, their positions, what is read both ways. Knows no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flagai.generate.lean.slots import Slot
from flagai.generate.writers.base import Prompt


@dataclass(frozen=True, slots=True)
class Laid:
    """What a decoder reads for one prompt.

    Args:
        blocks: second positions (GLM) or segments (UniLM); () where there are none.
        context: first tokens that are seen by all.
        slot: what is known of the row once it is read.
    """

    ids: Sequence[int]
    positions: Sequence[int]
    blocks: Sequence[int]
    context: int
    slot: Slot


class Causal:
    """A decoder: prompt and answer in one line, read from left to right."""

    def lay(self, prompt: Prompt) -> Laid:
        ids = (*prompt.ids, *prompt.written)
        return Laid(ids, range(len(ids)), (), 0, Slot(len(ids), shared=len(ids)))

    def open_next(self, slot: Slot) -> None:
        raise AssertionError("only a GLM has blanks")

    def next(self, slot: Slot) -> tuple[int, int]:
        """(position, second position) of the token that a row reads next; the row takes note."""
        return slot.length, slot.block


class Answers(Causal):
    """The decoder behind an encoder: start tokens and answer."""

    def __init__(self, starts: Sequence[int]) -> None:
        self._starts = tuple(starts)

    def lay(self, prompt: Prompt) -> Laid:
        ids = (*self._starts, *prompt.written)
        return Laid(ids, range(len(ids)), (), 0, Slot(len(ids), shared=len(ids)))


class UniLM(Causal):
    """BERT: the prompt is segment 0 and seen by all of itself, the answer segment 1.

    Args:
        segments: that the model has.
    """

    def __init__(self, segments: int) -> None:
        self._second = min(1, segments - 1)

    def lay(self, prompt: Prompt) -> Laid:
        ids, context = (*prompt.ids, *prompt.written), len(prompt.ids)
        blocks = (*[0] * context, *[self._second] * len(prompt.written))
        return Laid(ids, range(len(ids)), blocks, context, Slot(len(ids), shared=len(ids), block=self._second))


class Blanks(Causal):
    """GLM: the context, then answers with the position of their mask and a second position from 1."""

    def __init__(self, sop: int) -> None:
        self.sop = sop

    def lay(self, prompt: Prompt) -> Laid:
        given = (*prompt.answers, (prompt.blanks[0], prompt.written))
        read = [(token, place, block) for place, row in given for block, token in enumerate((self.sop, *row), start=1)]
        context = len(prompt.ids)
        ids = (*prompt.ids, *(one[0] for one in read))
        positions = (*range(context), *(one[1] for one in read))
        blocks = (*[0] * context, *(one[2] for one in read))
        slot = Slot(len(ids), shared=len(ids), place=read[-1][1], block=read[-1][2], later=prompt.blanks[1:])
        return Laid(ids, positions, blocks, context, slot)

    def open_next(self, slot: Slot) -> None:
        slot.place, *later = slot.later
        slot.later, slot.block = tuple(later), 0

    def next(self, slot: Slot) -> tuple[int, int]:
        slot.block += 1
        return slot.place, slot.block
