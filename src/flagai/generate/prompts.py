"""Contexts with blanks: where the blanks are, which tokens stand in no answer. Knows tokens, no text and no search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from flagai.errors import DataError
from flagai.generate.writers.base import Prompt
from flagai.models.glm.inputs_checks import find_masks

if TYPE_CHECKING:
    from flagai.models.glm.commands import Commands

MOST_BLANKS: Final = 64
"""blanks of one text: what has more is no text to fill but a mistake in making it"""


def end_ids(commands: Commands) -> tuple[int, ...]:
    """What ends an answer: <|endofpiece|>, and the end of the text (answers to [gMASK] were trained with that)."""
    return tuple(sorted({commands.eop, commands.eos}))


def structural_ids(commands: Commands) -> tuple[int, ...]:
    """Tokens that no answer was ever trained to have: start, masks and the like."""
    ids = {commands.cls, commands.sop, commands.pad, *commands.mask_ids}
    ids |= set() if commands.dblock is None else {commands.dblock}
    return tuple(sorted(ids - set(end_ids(commands))))


def make_prompt(ids: Sequence[int], commands: Commands, *, where: str = "") -> Prompt:
    """The prompt of a context.

    Raises:
        DataError: no mask in it, or more than `MOST_BLANKS`.
    """
    blanks = find_masks(ids, commands, where=where)
    if len(blanks) > MOST_BLANKS:
        raise DataError(
            f"the text has {len(blanks)} masks",
            where=where,
            expected=f"at most {MOST_BLANKS}",
            fix="one mask stands for any number of words; or cut the text into several",
        )
    return Prompt(ids=tuple(ids), blanks=blanks)


def most_positions(model: Any) -> int | None:
    """The longest context the model's position tables allow; None for a model that does not say."""
    config = getattr(model, "config", None)
    found = getattr(config, "max_sequence_length", None) or getattr(config, "max_position_embeddings", None)
    return None if found is None else int(found)
