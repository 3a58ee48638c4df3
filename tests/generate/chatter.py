"""A writer without a network: what comes next depends on a row's last two tokens, through a fixed random table."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flagai.errors import DataError
from flagai.generate.writers.base import Prompt

VOCAB, END = 24, 0


class Chatter:
    """Counts what it was asked to do: `read` prompts, `fed` rows."""

    end_ids: tuple[int, ...] = (END,)
    forbidden_ids: tuple[int, ...] = ()
    vocab_size = VOCAB
    device = torch.device("cpu")

    def __init__(self, *, room: int | None = 64, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._table = 2 * torch.randn(VOCAB, VOCAB, VOCAB, generator=generator)
        self._room, self._rows = room, []
        self.keep_hidden = False
        self.read, self.fed = 0, []

    def room(self, prompt: Prompt) -> int | None:
        if not prompt.ids:
            raise DataError("the prompt is empty", expected="at least one token")
        return self._room

    def begin(self, prompts: Sequence[Prompt]) -> Tensor:
        new = [[1, *prompt.ids, *prompt.written] for prompt in prompts]
        self._rows += new
        self.read += len(new)
        return self._scores(new)

    def feed(self, tokens: Tensor, opens: Tensor | None = None) -> Tensor:
        assert len(tokens) == len(self._rows)
        self._rows = [[*row, token] for row, token in zip(self._rows, tokens.tolist(), strict=True)]
        self.fed.append(len(self._rows))
        return self._scores(self._rows)

    def select(self, rows: Tensor) -> None:
        self._rows = [list(self._rows[i]) for i in rows.tolist()]

    def hidden(self) -> Sequence[Tensor]:
        raise AssertionError("no search here asks for hidden states")

    def _scores(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.stack([self._table[row[-2], row[-1]] for row in rows])


def greedy(ids: Sequence[int], most: int, *, seed: int = 0) -> list[int]:
    """The slow twin of greedy search with a `Chatter`; the end is left out."""
    writer, tokens = Chatter(seed=seed), []
    scores = writer.begin([Prompt(ids=tuple(ids))])
    while len(tokens) < most and (token := int(scores.argmax())) != END:
        tokens.append(token)
        scores = writer.feed(torch.tensor([token]))
    return tokens
