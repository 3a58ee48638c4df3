"""What rows have written so far, as processors read it: aligned to the right. Knows tokens and rows, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flagai.generate.processors import NOTHING, apply

if TYPE_CHECKING:
    from flagai.generate.search import Setting


class History:
    """The tokens of each row's answer.

    Args:
        wanted: whether anyone reads it; otherwise nothing is kept.
    """

    def __init__(self, device: torch.device, *, wanted: bool) -> None:
        self._wanted = wanted
        self.tokens = torch.empty(0, 0, dtype=torch.long, device=device)
        """int64 [rows, n], aligned to the right and filled up with `NOTHING`"""

    def add(self, written: Sequence[Sequence[int]]) -> None:
        """New rows below, with what is written in them already."""
        if not (self._wanted and written):
            return
        rows, width = self.tokens.shape
        wider = max(width, *map(len, written))
        stacked = torch.full((rows + len(written), wider), NOTHING, dtype=torch.long, device=self.tokens.device)
        stacked[:rows, wider - width :] = self.tokens
        for row, tokens in enumerate(written, start=rows):
            if tokens:
                stacked[row, wider - len(tokens) :] = torch.tensor(tokens, device=stacked.device)
        self.tokens = stacked

    def extend(self, rows: Tensor, tokens: Tensor, longest: int) -> None:
        """Go on with these rows, int64 [n], and one more token in each, int64 [n].

        Args:
            longest: tokens of the longest of them then: columns in which no row has a token are left out.
        """
        if self._wanted:
            grown = torch.cat([self.tokens[rows], tokens[:, None]], 1)
            self.tokens = grown[:, max(grown.shape[1] - longest, 0) :]

    def forget(self, rows: Tensor) -> None:
        """These rows, bool [rows], begin anew."""
        if self._wanted:
            self.tokens = self.tokens.masked_fill(rows[:, None], NOTHING)

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows."""
        if self._wanted:
            self.tokens = self.tokens[list(rows)]


class Past:
    """What processors read of the rows of a search: their answers, and the whole texts for those that count prompts.

    Where the model continues its prompt (`Setting.continues`), penalties of repetition count the prompt too, as
    transformers has it; elsewhere an answer stands by itself.
    """

    def __init__(self, setting: Setting) -> None:
        self._processors = setting.processors
        counted = setting.continues and any(getattr(one, "counts_prompt", False) for one in setting.processors)
        self._answers = History(setting.device, wanted=bool(setting.processors))
        self._texts = History(setting.device, wanted=True) if counted else None
        self._longest_prompt = 0

    def add(self, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]]) -> None:
        """New rows below: what was read in front of their answers, and what is written of these already."""
        self._answers.add(written)
        if self._texts is not None:
            self._texts.add([[*prompt, *answer] for prompt, answer in zip(prompts, written, strict=True)])
            self._longest_prompt = max(self._longest_prompt, *map(len, prompts), 0)

    def process(self, scores: Tensor) -> Tensor:
        """The scores [rows, V] after all processors."""
        texts = None if self._texts is None else self._texts.tokens
        return apply(self._processors, self._answers.tokens, scores, texts)

    def extend(self, rows: Tensor, tokens: Tensor, longest: int) -> None:
        """See `History.extend`; `longest` counts the answer alone."""
        self._answers.extend(rows, tokens, longest)
        if self._texts is not None:
            self._texts.extend(rows, tokens, longest + self._longest_prompt)

    def forget(self, rows: Tensor) -> None:
        """See `History.forget`."""
        self._answers.forget(rows)

    def keep(self, rows: Sequence[int]) -> None:
        """See `History.keep`."""
        self._answers.keep(rows)
        if self._texts is not None:
            self._texts.keep(rows)
