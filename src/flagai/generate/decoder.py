"""A model and its cache: rows that go forward together, and can be chosen, repeated and set back. Knows no search.

A row's columns are what was fed so far, pads among them. Where no row has pads no mask is made.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Decoder:
    """Feeds tokens to a model with a cache of transformers.

    Args:
        model: called as `model(input_ids, position_ids=…, attention_mask=…, context_length=…, past_key_values=…,
            use_cache=True, logits_to_keep=1)`; it answers with `logits` and `past_key_values`.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None
        self._mask: Tensor | None = None
        self._columns = 0

    def feed(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        *,
        real: Tensor | None = None,
        context_length: Tensor | None = None,
    ) -> Tensor:
        """The scores of what follows the last column, float32 [rows, V].

        Args:
            input_ids: int64 [rows, n], the new tokens; the last column must be real in every row.
            position_ids: int64 [rows, 2, n], or whatever form the model takes.
            real: bool [rows, n], False for pads; None where there are none.
            context_length: int64 [rows], columns of the context that is read in both directions; only for the first.
        """
        inputs: dict[str, Any] = {} if context_length is None else {"context_length": context_length}
        outputs = self._model(
            input_ids,
            position_ids=position_ids,
            attention_mask=self._extend(real, input_ids),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **inputs,
        )
        self._cache = _part(outputs, "past_key_values")
        return _part(outputs, "logits")[:, -1].float()

    def select(self, rows: Tensor) -> None:
        """Go on with these rows (int64 [n]): some of them left out, or in another order, or several times."""
        self._cache.batch_select_indices(rows)
        self._mask = None if self._mask is None else self._mask[rows]

    def repeat(self, times: int) -> None:
        """Each row `times` times in a row."""
        self._cache.batch_repeat_interleave(times)
        self._mask = None if self._mask is None else self._mask.repeat_interleave(times, 0)

    def copy(self) -> Decoder:
        """The same state a second time, to come back to."""
        other = Decoder(self._model)
        other._cache, other._mask, other._columns = copy.deepcopy(self._cache), self._mask, self._columns
        return other

    def _extend(self, real: Tensor | None, input_ids: Tensor) -> Tensor | None:
        (rows, new), device = input_ids.shape, input_ids.device
        if self._mask is None and real is not None and not bool(real.all()):
            self._mask = torch.ones(rows, self._columns, dtype=torch.long, device=device)
        self._columns += new
        if self._mask is None:
            return None
        added = torch.ones(rows, new, dtype=torch.long, device=device) if real is None else real.long()
        self._mask = torch.cat([self._mask, added], 1)
        return self._mask


def _part(outputs: Any, name: str) -> Any:
    return outputs[name] if isinstance(outputs, Mapping) else getattr(outputs, name)
