"""What decoding needs of a model: rows that read prompts, take tokens, are chosen. Knows no family and no search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is read before the first token of an answer is chosen.

    Args:
        ids: what a decoder reads, or an encoder; for a GLM the context with its masks; for a BERT the first segment.
        written: tokens of the answer that are there already: a given prefix, or an answer that is taken up again.
        blanks: GLM only: where in `ids` answers belong, in order, the one to be written first; () for other families.
        answers: GLM only: the answers to blanks before those, as (place in `ids`, tokens).
    """

    ids: tuple[int, ...]
    written: tuple[int, ...] = ()
    blanks: tuple[int, ...] = ()
    answers: tuple[tuple[int, tuple[int, ...]], ...] = ()


class Writer(Protocol):
    """A model at work on rows, each a text that grows by one token at a time.

    A row's scores do not depend on the other rows (but for rounding). New rows may come at any time, behind the others.
    Calls are made under `torch.inference_mode()`.
    """

    @property
    def device(self) -> torch.device:
        """Where scores are and tokens are wanted."""
        ...

    @property
    def vocab_size(self) -> int:
        """Width of the scores."""
        ...

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer unless the options name others; () where the model knows none."""
        ...

    @property
    def forbidden_ids(self) -> tuple[int, ...]:
        """Tokens that stand in no answer: those of structure, and rows of the vocabulary without a text."""
        ...

    def room(self, prompt: Prompt) -> int | None:
        """How many tokens an answer may have (`written` counted); None without a bound.

        Raises:
            DataError: an empty prompt, or one that the model has no positions for.
        """
        ...

    def begin(self, prompts: Sequence[Prompt]) -> Tensor:
        """Read prompts as new rows behind those there are: the scores of what comes next, fp32 [prompts, V]."""
        ...

    def feed(self, tokens: Tensor, opens: Tensor | None = None) -> Tensor:
        """One token for every row, int64 [rows] → scores of what comes next, fp32 [rows, V].

        Args:
            opens: GLM only: bool [rows], True where the row's last answer is finished and its next blank begins; the
                start token is read there, whatever `tokens` says.
        """
        ...

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, int64 [n]: left out, in another order, or several times. n may be 0."""
        ...

    def hidden(self) -> Sequence[Tensor]:
        """Last hidden states of what was read by the last `begin` (its new rows: [tokens, H], an encoder's left out) or
        `feed` (all rows: [1, H]). Only after `keep_hidden` was set to True before.
        """
        ...

    keep_hidden: bool
    """whether `hidden` is asked for; False unless set"""
