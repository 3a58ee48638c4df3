"""Writing with an encoder-decoder: T5, mT5, BART and their like. Knows no search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from flagai.errors import ModelError
from flagai.generate.writers.base import Prompt
from flagai.generate.writers.batch import Batch, BatchWriter, Columns, check_length, last_hidden, padded
from flagai.generate.writers.caches import RowCache


@dataclass(slots=True)
class _Batch(Batch):
    """Also what the rows' decoders see of their encoders: columns from the left, `lengths` of them."""

    cross: RowCache = field(default_factory=lambda: RowCache(grows=False, side="left"))
    lengths: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    """a number for each text that was read: rows of the same text see the same"""
    both: EncoderDecoderCache = field(init=False)

    def __post_init__(self) -> None:
        self.both = EncoderDecoderCache(self.cache, self.cross)
        self.sources = list(range(len(self.lengths)))

    def join(self, other: Any) -> None:
        Batch.join(self, other)
        self.cross.join(other.cross)
        first = 1 + max(self.sources)
        self.sources += [first + source for source in other.sources]
        self.lengths += other.lengths

    def select(self, rows: Sequence[int], device: torch.device) -> None:
        Batch.select(self, rows, device)
        sources = [self.sources[row] for row in rows]
        if sources != self.sources:  # beams that change places among themselves cost nothing here
            self.cross.select(rows, device)
        self.sources, self.lengths = sources, [self.lengths[row] for row in rows]


class Seq2SeqWriter(BatchWriter[_Batch]):
    """A `Writer` over the forward of a sequence-to-sequence model; prompts are read by the encoder.

    Args:
        model, end_ids, forbidden_ids: see `BatchWriter`.
        starts: what the decoder reads before an answer: its start token and, where the model forces one, the first.

    Raises:
        ModelError: positions of the decoder that are made in a way that rows of different lengths cannot share.
    """

    def __init__(
        self, model: Any, *, starts: Sequence[int], end_ids: Sequence[int] = (), forbidden_ids: Sequence[int] = ()
    ) -> None:
        super().__init__(model, end_ids=end_ids, forbidden_ids=forbidden_ids)
        self._starts = tuple(starts)
        self._encoder, self._table = model.get_encoder(), _position_table(model)

    def room(self, prompt: Prompt) -> int | None:
        """See `Writer`."""
        has_table = _position_table(self.model, of="encoder") is not None
        check_length(len(prompt.ids), _positions(self.model.config, "encoder") if has_table else None)
        positions = None if self._table is None else _positions(self.model.config, "decoder")
        return None if positions is None else positions - len(self._starts) + 1

    def _read(self, prompts: Sequence[Prompt]) -> tuple[_Batch, Tensor, Tensor | None]:
        rows = [(*self._starts, *prompt.written) for prompt in prompts]
        lengths = [len(prompt.ids) for prompt in prompts]
        batch = _Batch(Columns([len(row) for row in rows], self.device), lengths=lengths)
        ids = torch.tensor([[*p.ids, *[0] * (max(lengths) - len(p.ids))] for p in prompts], device=self.device)
        seen = self._seen(batch)
        states = self._encoder(input_ids=ids, attention_mask=seen, return_dict=True).last_hidden_state
        columns = batch.columns
        scores, hidden = self._decode(
            batch, padded(rows, columns, self.device), states, seen, real=columns.real(), positions=columns.positions()
        )
        return batch, scores, hidden

    def _step(self, batch: _Batch, tokens: Tensor, opens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        # Keys and values of the encoder's states are in the cache: only their shape is asked for.
        size = int(self.model.config.hidden_size)
        states = torch.zeros(1, device=self.device, dtype=self.model.dtype)
        states = states.expand(len(tokens), batch.cross.get_seq_length(), size)
        columns = batch.columns
        return self._decode(
            batch,
            tokens[:, None],
            states,
            self._seen(batch),
            real=columns.real(more=1),
            positions=columns.next_positions(),
        )

    def _decode(
        self, batch: _Batch, ids: Tensor, states: Tensor, seen: Tensor | None, *, real: Tensor | None, positions: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        with _placed(self._table if real is not None else None, positions):
            outputs = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),  # type: ignore[arg-type]
                attention_mask=seen,
                decoder_input_ids=ids,
                decoder_attention_mask=None if real is None else real.long(),
                past_key_values=batch.both,
                use_cache=True,
                output_hidden_states=self.keep_hidden,
                return_dict=True,
            )
        return outputs.logits[:, -1], last_hidden(outputs, "decoder_hidden_states") if self.keep_hidden else None

    def _seen(self, batch: _Batch) -> Tensor | None:
        """Which of the encoder's columns each row has, [rows, columns]; None where all have all."""
        width = batch.cross.get_seq_length() or max(batch.lengths)
        if min(batch.lengths) == width:
            return None
        lengths = torch.tensor(batch.lengths, device=self.device)[:, None]
        return (torch.arange(width, device=self.device) < lengths).long()


@contextmanager
def _placed(table: nn.Embedding | None, positions: Tensor) -> Iterator[None]:
    """Let a decoder's table of positions answer for these, int64 [rows, n].

    BART and its like count columns; where rows have pads before them a token's position is another. There is no
    argument for it, so the table's answer is replaced for the time of a call.
    """
    if table is None:
        yield
        return

    def look_up(module: nn.Module, *_: Any) -> Tensor:
        return F.embedding(positions + getattr(table, "offset", 0), table.weight)

    handle = table.register_forward_hook(look_up)
    try:
        yield
    finally:
        handle.remove()


def _position_table(model: Any, of: str = "decoder") -> nn.Embedding | None:
    """The positions of an encoder or decoder, None where they are relative (T5)."""
    half = model.get_decoder() if of == "decoder" else model.get_encoder()
    table = getattr(half, "embed_positions", None)
    if table is None or isinstance(table, nn.Embedding):
        return table
    raise ModelError(
        f"{type(model).__name__} makes the positions of its {of} with {type(table).__name__}",
        expected="relative positions (T5) or a table of them (BART, mBART, Pegasus, Marian)",
        where="generate",
    )


def _positions(config: Any, half: str) -> int | None:
    for name in (f"max_{half}_position_embeddings", "max_position_embeddings"):
        found = getattr(config, name, None)
        if found is not None:
            return int(found)
    return None
