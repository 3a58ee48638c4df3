"""What is wrong with a text that has blanks, said in one way wherever texts come in. Knows no model and no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from flagai.errors import DataError
from flagai.models.glm.commands import EOP, MASKS, SOP, Commands

_NAMES: Final = {"sop": SOP, "eop": EOP, "cls": "[CLS]", "dblock": "[dBLOCK]"}
"""tokens that only frame texts and answers: in a text itself they would end it or begin an answer"""


def name_of(index: int, count: int) -> str:
    """How messages name one of `count` texts: "text 1" for the first of several, nothing for a single one."""
    return f"text {index + 1}" if count > 1 else ""


def as_texts(given: Any, what: str = "text") -> list[str]:
    """One text, or several, as a list; `DataError` for anything else."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Iterable) or isinstance(given, Mapping | bytes):
        raise DataError(f"{given!r} is no {what}", expected=f"a {what}, or a list of them")
    texts = list(given)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"{text!r} is no {what}", where=f"{what} {i + 1}", expected="a string")
    return texts


def lacking_masks(text: str, commands: Commands) -> tuple[str, ...]:
    """The masks of a text that its vocabulary has no token for: they would be read as ordinary letters."""
    ids = zip(MASKS, (commands.mask, commands.smask, commands.gmask), strict=True)
    return tuple(mask for mask, number in ids if number is None and mask in text)


def check_masks(text: str, commands: Commands, *, where: str = "") -> None:
    """`DataError` for a text with a mask that the vocabulary lacks."""
    if lost := lacking_masks(text, commands):
        raise DataError(
            f"the vocabulary has no {', '.join(lost)}",
            where=where,
            expected=f"{MASKS[0]}, or another mask that this model was trained with",
            fix=f"write {MASKS[0]}: models without the others fill every kind of gap there",
        )


def check_control_tokens(ids: Sequence[int], commands: Commands, *, where: str = "") -> None:
    """`DataError` for a framed context with a token in it that belongs around texts or answers, not inside."""
    masks = commands.mask_ids  # in one published vocabulary [gMASK] and the end of a piece share an id
    for field, token in _NAMES.items():
        number = getattr(commands, field)
        if number is not None and number not in masks and number in ids[1:]:
            raise _control_token(f" ({token})", where)


def check_number_of_masks(found: int, written: int, *, where: str = "") -> None:
    """`DataError` where a context has more masks than its text shows: the vocabulary's own spelling of one."""
    if found != written:
        raise _control_token("", where)


def find_masks(ids: Sequence[int], commands: Commands, *, where: str = "") -> tuple[int, ...]:
    """Where the masks of a context stand, in order; `DataError` where there is none."""
    places = tuple(i for i, one in enumerate(ids) if one in commands.mask_ids)
    if not places:
        present = (commands.mask, commands.smask, commands.gmask)
        known = [mask for mask, number in zip(MASKS, present, strict=True) if number is not None]
        raise DataError(
            "the text has no mask",
            where=where,
            expected=" or ".join(known),
            fix="write one where something is to be written; if it comes last, at the end of the text",
        )
    return places


def _control_token(which: str, where: str) -> DataError:
    return DataError(f"the text has control tokens of the model in it{which}", where=where, fix="take them out")
