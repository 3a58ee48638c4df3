"""Contexts with blanks: where the blanks are, whether they fit the model, and a batch of them as tensors.

It knows tokens and positions, no text and no search.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor

from flagai.errors import ConfigError, DataError
from flagai.generate.options import GenerationOptions
from flagai.models.glm.inputs_checks import find_masks, name_of

if TYPE_CHECKING:
    from flagai.models.glm.commands import Commands

MOST_BLANKS: Final = 64
"""blanks of one text: what has more is no text to fill but a mistake in making it"""

_USUAL_LENGTH: Final = 128  # of an answer, where no one says how long it may be

Side = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A context as the model reads it, and the indices in it where answers belong, in order."""

    ids: tuple[int, ...]
    blanks: tuple[int, ...]


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


def longest_answer(prompt: Prompt, positions: int) -> int:
    """Tokens of an answer that the table of block positions has room for.

    An answer's i-th token is read at block position i + 1; the last one is read only where another blank follows.
    """
    return positions if len(prompt.blanks) == 1 else positions - 1


def check_suppressed(options: GenerationOptions, model: Any) -> None:
    """Raises ConfigError for ids in `suppress_tokens` that the model's vocabulary does not have."""
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    beyond = [] if size is None else [i for i in options.suppress_tokens if i >= int(size)]
    if beyond:
        raise ConfigError(
            f"suppress_tokens has {beyond[0]}" + (f" and {len(beyond) - 1} more like it" if beyond[1:] else ""),
            where="generate.suppress_tokens",
            expected=f"ids from 0 to {int(size or 0) - 1}: the vocabulary has no others",
            fix="take them out",
        )


def settle(prompts: Sequence[Prompt], options: GenerationOptions, positions: int | None) -> GenerationOptions:
    """The options with `max_new_tokens` decided, where the prompts and the answers are within the position tables.

    Args:
        positions: see `most_positions`.

    Raises:
        DataError: a context is too long.
        ConfigError: the answers may become too long, or cannot become as long as `min_new_tokens`.
    """
    if options.max_new_tokens is None:
        # Not longer where there is but one blank: the answer must not depend on what else is in the batch.
        most = _USUAL_LENGTH if positions is None else min(_USUAL_LENGTH, positions - 1)
        options = dataclasses.replace(options, max_new_tokens=most)
    for i, prompt in enumerate(prompts if positions is not None else ()):
        assert positions is not None and options.max_new_tokens is not None
        if len(prompt.ids) > positions:
            raise DataError(
                f"the text has {len(prompt.ids)} tokens, special tokens counted",
                where=name_of(i, len(prompts)),
                expected=f"at most {positions}: the model has no positions beyond",
                fix="shorten the text",
            )
        if options.max_new_tokens > longest_answer(prompt, positions):
            raise ConfigError(
                f"max_new_tokens is {options.max_new_tokens}",
                where="generate.max_new_tokens",
                expected=f"at most {longest_answer(prompt, positions)}: the model has no positions for longer answers",
                fix="lower it",
            )
    return options


@dataclass(frozen=True, slots=True)
class Inputs:
    """A batch of prompts, each with the start of its first answer behind it: what `Decoder.feed` takes first.

    Args:
        input_ids: int64 [rows, n].
        position_ids: int64 [rows, 2, n].
        real: bool [rows, n].
        context_length: int64 [rows].
    """

    input_ids: Tensor
    position_ids: Tensor
    real: Tensor
    context_length: Tensor


def make_inputs(prompts: Sequence[Prompt], *, sop: int, pad: int, side: Side, device: torch.device) -> Inputs:
    """Pads go before a context or between it and the start token; either way the last column is real in every row."""
    width = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), width + 1), pad, dtype=torch.long)
    positions = torch.zeros(len(prompts), 2, width + 1, dtype=torch.long)
    real = torch.zeros(len(prompts), width + 1, dtype=torch.bool)
    lengths = []
    for row, prompt in enumerate(prompts):
        length = len(prompt.ids)
        start = width - length if side == "left" else 0
        ids[row, start : start + length] = torch.tensor(prompt.ids)
        positions[row, 0, start : start + length] = torch.arange(length)
        positions[row, :, -1] = torch.tensor([prompt.blanks[0], 1])
        real[row, start : start + length] = True
        lengths.append(start + length)
    ids[:, -1], real[:, -1] = sop, True
    return Inputs(ids.to(device), positions.to(device), real.to(device), torch.tensor(lengths, device=device))
