"""Rows at work: their cache, which of its columns are real, and what all writers do alike. Knows no family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from flagai.errors import DataError
from flagai.generate.writers.base import Prompt
from flagai.generate.writers.caches import RowCache


class Columns:
    """The columns of a cache: those of each row are the last ones, behind `pads` that it has no token for.

    Args:
        lengths: tokens of each row.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.width = max(lengths)
        self.pads = [self.width - length for length in lengths]
        self._device = device
        self._on_device: Tensor | None = None

    @property
    def even(self) -> bool:
        """Whether every row has a token in every column."""
        return not any(self.pads)

    def real(self, *, more: int = 0) -> Tensor | None:
        """Bool [rows, width + more], False for pads; None where there are none."""
        if self.even:
            return None
        return torch.arange(self.width + more, device=self._device) >= self._first()

    def positions(self) -> Tensor:
        """The place of each column in its row, int64 [rows, width]; 0 for pads."""
        return (torch.arange(self.width, device=self._device) - self._first()).clamp(min=0)

    def next_positions(self) -> Tensor:
        """The place of the token that comes next, int64 [rows, 1]."""
        return self.width - self._first()

    def join(self, other: Columns) -> None:
        """The rows of another behind these."""
        width = max(self.width, other.width)
        self.pads = [p + width - one.width for one in (self, other) for p in one.pads]
        self.width, self._on_device = width, None

    def select(self, rows: Sequence[int]) -> int:
        """Go on with these rows: how many first columns none of them needs."""
        pads = [self.pads[row] for row in rows]
        unused = min(pads)
        pads = [p - unused for p in pads]
        self._on_device = self._on_device if pads == self.pads else None
        self.pads, self.width = pads, self.width - unused
        return unused

    def _first(self) -> Tensor:
        """Where each row begins, int64 [rows, 1]; kept, as a copy to a device costs more than what is made of it."""
        if self._on_device is None:
            self._on_device = torch.tensor(self.pads, device=self._device)[:, None]
        return self._on_device


@dataclass(slots=True)
class Batch:
    """What belongs to the rows of a writer."""

    columns: Columns
    cache: RowCache = field(default_factory=RowCache)

    def join(self, other: Any) -> None:
        """The rows of another behind these."""
        self.cache.join(other.cache)
        self.columns.join(other.columns)

    def select(self, rows: Sequence[int], device: torch.device) -> None:
        """Go on with these rows, at least one."""
        self.cache.select(rows, device)
        self.cache.drop_columns(self.columns.select(rows))


B = TypeVar("B", bound=Batch)


class BatchWriter(ABC, Generic[B]):
    """A `Writer` over the forward of a Hugging Face model: what does not depend on the family.

    Args:
        model: in evaluation mode, on one device.
        end_ids: see `Writer.end_ids`.
        forbidden_ids: see `Writer.forbidden_ids`.
    """

    fills_blanks = False
    """whether prompts have blanks (GLM)"""
    continues = False
    """whether an answer goes on from its prompt, as one text"""

    def __init__(self, model: Any, *, end_ids: Sequence[int] = (), forbidden_ids: Sequence[int] = ()) -> None:
        self.model = model
        self.keep_hidden = False
        self._ends, self._forbidden = tuple(end_ids), tuple(forbidden_ids)
        self._batch: B | None = None
        self._hidden: list[Tensor] = []

    @property
    def device(self) -> torch.device:
        """See `Writer`."""
        return torch.device(self.model.device)

    @property
    def vocab_size(self) -> int:
        """See `Writer`."""
        weight = getattr(self.model.get_output_embeddings(), "weight", None)
        return int(self.model.config.vocab_size) if weight is None else len(weight)

    @property
    def source_size(self) -> int:
        """One more than the largest id that a prompt may have: an encoder may have a vocabulary of its own."""
        half = self.model.get_encoder() if getattr(self.model.config, "is_encoder_decoder", False) else self.model
        table = half.get_input_embeddings()
        return int(getattr(table, "num_embeddings", 0)) or self.vocab_size

    @property
    def end_ids(self) -> tuple[int, ...]:
        """See `Writer`."""
        return self._ends

    @property
    def forbidden_ids(self) -> tuple[int, ...]:
        """See `Writer`."""
        return self._forbidden

    @abstractmethod
    def room(self, prompt: Prompt) -> int | None:
        """See `Writer`."""

    @abstractmethod
    def _read(self, prompts: Sequence[Prompt]) -> tuple[B, Tensor, Tensor | None]:
        """A batch of its own for prompts: (it, scores [rows, V], hidden states [rows, width, H] if they are kept)."""

    @abstractmethod
    def _step(self, batch: B, tokens: Tensor, opens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(scores [rows, V], hidden states [rows, 1, H] if they are kept) after one more token in every row."""

    def begin(self, prompts: Sequence[Prompt]) -> Tensor:
        """See `Writer`."""
        if not prompts:
            self._hidden = []
            return torch.empty(0, self.vocab_size, device=self.device)
        batch, scores, hidden = self._read(prompts)
        self._hidden = [] if hidden is None else [one[p:] for one, p in zip(hidden, batch.columns.pads, strict=True)]
        if self._batch is None:
            self._batch = batch
        else:
            self._batch.join(batch)
        return scores.float()

    def feed(self, tokens: Tensor, opens: Tensor | None = None) -> Tensor:
        """See `Writer`."""
        assert self._batch is not None and len(tokens) == len(self._batch.columns.pads), "a token for each row"
        scores, hidden = self._step(self._batch, tokens, opens)
        self._batch.columns.width += 1
        self._hidden = [] if hidden is None else list(hidden)
        return scores.float()

    def select(self, rows: Tensor) -> None:
        """See `Writer`."""
        places: list[int] = rows.tolist()
        if not places:
            self._batch = None
        elif self._batch is not None and places != list(range(len(self._batch.columns.pads))):
            self._batch.select(places, self.device)

    def hidden(self) -> Sequence[Tensor]:
        """See `Writer`."""
        return self._hidden


def padded(rows: Sequence[Sequence[int]], columns: Columns, device: torch.device) -> Tensor:
    """Rows of tokens as int64 [rows, width]; any token stands where there is none."""
    return torch.tensor([[0] * p + list(row) for p, row in zip(columns.pads, rows, strict=True)], device=device)


def last_hidden(outputs: Any, name: str = "hidden_states") -> Tensor | None:
    """The last of the hidden states that a forward returned, if it returned any."""
    found = getattr(outputs, name, None)
    return None if found is None else found[-1]


def check_length(length: int, positions: int | None, *, what: str = "prompt") -> None:
    """`DataError` for a prompt without a token, or with more than the model has positions for."""
    if length == 0:
        raise DataError(f"the {what} is empty", expected="at least one token", where="generate")
    if positions is not None and length > positions:
        raise DataError(
            f"the {what} has {length} tokens, special tokens counted",
            expected=f"at most {positions}: the model has no positions beyond",
            fix="shorten the text",
            where="generate",
        )


def first_position(model: Any) -> int:
    """The position of a text's first token: RoBERTa counts from behind its pad."""
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    pad = getattr(table, "padding_idx", None)
    return 0 if pad is None else int(pad) + 1
