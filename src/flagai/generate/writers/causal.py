"""Writing with a decoder: GPT-2, OPT, Llama, Qwen and whatever else predicts its next token. Knows no search."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flagai.generate.writers.base import Prompt
from flagai.generate.writers.batch import Batch, BatchWriter, Columns, check_length, first_position, last_hidden, padded


class CausalWriter(BatchWriter[Batch]):
    """A `Writer` over the forward of a causal language model; prompts of different lengths are padded on the left.

    Positions are told where the model takes them; others (Bloom) find them in the mask.
    """

    continues = True

    def __init__(self, model: Any, *, end_ids: Sequence[int] = (), forbidden_ids: Sequence[int] = ()) -> None:
        super().__init__(model, end_ids=end_ids, forbidden_ids=forbidden_ids)
        known = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in known
        self._first = first_position(model)
        self._extras: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    def room(self, prompt: Prompt) -> int | None:
        """See `Writer`. The last token of an answer is not read: it needs no position."""
        positions = most_positions(self.model.config)
        positions = None if positions is None else positions - self._first
        check_length(len(prompt.ids), positions)
        return None if positions is None else positions - len(prompt.ids) + 1

    def _read(self, prompts: Sequence[Prompt]) -> tuple[Batch, Tensor, Tensor | None]:
        rows = [(*prompt.ids, *prompt.written) for prompt in prompts]
        batch = Batch(Columns([len(row) for row in rows], self.device))
        columns = batch.columns
        scores, hidden = self._forward(batch, padded(rows, columns, self.device), columns.real(), columns.positions())
        return batch, scores, hidden

    def _step(self, batch: Batch, tokens: Tensor, opens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        columns = batch.columns
        return self._forward(batch, tokens[:, None], columns.real(more=1), columns.next_positions())

    def _forward(
        self, batch: Batch, ids: Tensor, real: Tensor | None, positions: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        inputs = {"position_ids": positions + self._first} if self._takes_positions else {}
        outputs = self.model(
            input_ids=ids,
            attention_mask=None if real is None else real.long(),
            past_key_values=batch.cache,
            use_cache=True,
            output_hidden_states=self.keep_hidden,
            return_dict=True,
            **inputs,
            **self._extras,
        )
        return outputs.logits[:, -1], last_hidden(outputs) if self.keep_hidden else None


def most_positions(config: Any) -> int | None:
    """The longest text the model reads; None for a model that does not say."""
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    found = getattr(text, "max_position_embeddings", None)
    return None if found is None else int(found)
