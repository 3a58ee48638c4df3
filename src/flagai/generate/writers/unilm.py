"""Writing with a BERT or RoBERTa as UniLM does: a prompt read both ways, an answer behind it from left to right.

It knows no search. Source: Dong et al. 2019, "Unified Language Model Pre-training", section 2.3, in the form of the
original FlagAI: the prompt is segment 0 and the answer segment 1, the scores of a token are those at the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flagai.generate.writers.base import Prompt
from flagai.generate.writers.batch import Batch, BatchWriter, Columns, check_length, first_position, padded


class UniLMWriter(BatchWriter[Batch]):
    """A `Writer` over Hugging Face's `BertForMaskedLM`, `RobertaForMaskedLM` and the like.

    Their attention fills a cache where one is given, though they offer none themselves.

    Args:
        model, end_ids, forbidden_ids: see `BatchWriter`. Prompts are framed as the model wants them ([CLS] … [SEP]).
    """

    def __init__(self, model: Any, *, end_ids: Sequence[int] = (), forbidden_ids: Sequence[int] = ()) -> None:
        super().__init__(model, end_ids=end_ids, forbidden_ids=forbidden_ids)
        self._body, self._head = model.base_model, head_of(model)
        self._segments = int(getattr(model.config, "type_vocab_size", 1) or 1)
        self._first = first_position(model)

    def room(self, prompt: Prompt) -> int | None:
        """See `Writer`. The last token of an answer is not read: it needs no position."""
        positions = int(self.model.config.max_position_embeddings) - self._first
        check_length(len(prompt.ids), positions)
        return positions - len(prompt.ids) + 1

    def _read(self, prompts: Sequence[Prompt]) -> tuple[Batch, Tensor, Tensor | None]:
        rows = [(*prompt.ids, *prompt.written) for prompt in prompts]
        batch = Batch(Columns([len(row) for row in rows], self.device))
        columns = batch.columns
        segments = padded([[*[0] * len(one.ids), *[1] * len(one.written)] for one in prompts], columns, self.device)
        mask = self._prefix_mask(columns, segments)
        scores, hidden = self._forward(batch, padded(rows, columns, self.device), columns.positions(), segments, mask)
        return batch, scores, hidden

    def _step(self, batch: Batch, tokens: Tensor, opens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        columns, ids = batch.columns, tokens[:, None]
        real = columns.real(more=1)
        mask = None if real is None else real[:, None, None]
        return self._forward(batch, ids, columns.next_positions(), torch.ones_like(ids), mask)

    def _prefix_mask(self, columns: Columns, segments: Tensor) -> Tensor | None:
        """What each token sees: all of the prompt, and of the answer what is not behind it."""
        real = columns.real()
        if real is None and not bool(segments.any()):
            return None
        before = torch.ones(columns.width, columns.width, dtype=torch.bool, device=self.device).tril()
        seen = before | (segments == 0)[:, None]
        return (seen if real is None else seen & real[:, None])[:, None]

    def _forward(
        self, batch: Batch, ids: Tensor, positions: Tensor, segments: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        outputs = self._body(
            ids,
            attention_mask=None if mask is None else self._as_wanted(mask),
            token_type_ids=segments.clamp(max=self._segments - 1),
            position_ids=positions + self._first,
            past_key_values=batch.cache,
            return_dict=True,
        )
        hidden = outputs.last_hidden_state
        assert self._head is not None, "looked at by make_writer"
        return self._head(hidden[:, -1:])[:, -1], hidden if self.keep_hidden else None

    def _as_wanted(self, mask: Tensor) -> Tensor:
        """A boolean mask for SDPA; what attention adds to its scores for the eager one."""
        if "eager" not in str(self.model.config._attn_implementation):
            return mask
        dtype = self.model.dtype
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def head_of(model: Any) -> nn.Module | None:
    """The layers from hidden states to scores of tokens; None for a model without."""
    if getattr(model, "get_output_embeddings", lambda: None)() is None:
        return None
    head = getattr(model, "lm_head", None) or getattr(model, "cls", None)
    return getattr(head, "predictions", head)
