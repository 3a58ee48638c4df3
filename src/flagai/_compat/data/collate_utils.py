"""The original's collate functions: lists of samples → padded tensors (pad 0). Knows no model and no loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from flagai.data.batching import pad
from flagai.errors import DataError

Sample = dict[str, Any]


def bert_cls_collate_fn(batch: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """`input_ids`, `segment_ids` and `labels` (one number a sample) → [B, L], [B, L], [B]."""
    return _inputs(batch) | {"labels": torch.tensor([int(label) for label in _column(batch, "labels")])}


def bert_sequence_label_collate_fn(batch: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """The same with `labels` a list of tag ids a sample → [B, L], 0 where `padding_mask` is false."""
    labels = [list(label) for label in _column(batch, "labels")]
    inputs = _inputs(batch)
    for label, ids in zip(labels, _column(batch, "input_ids"), strict=True):
        if len(label) != len(ids):
            raise DataError(
                f"a sample has {len(ids)} input_ids and {len(label)} labels",
                where="bert_sequence_label_collate_fn",
                expected="one label for each token, special tokens counted",
            )
    length = inputs["input_ids"].shape[1]
    return inputs | _padding_mask(batch, length) | {"labels": torch.from_numpy(pad(labels, 0, length=length))}


def bert_sequence_label_gp_collate_fn(batch: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """The same with `labels` a grid [types, tokens, tokens] a sample → [B, types, L, L]."""
    grids = [np.asarray(grid) for grid in _column(batch, "labels")]
    inputs = _inputs(batch)
    length = inputs["input_ids"].shape[1]
    labels = np.zeros((len(batch), grids[0].shape[0], length, length), dtype=np.int64)
    for row, grid in zip(labels, grids, strict=True):
        row[:, : grid.shape[1], : grid.shape[2]] = grid
    return inputs | _padding_mask(batch, length) | {"labels": torch.from_numpy(labels)}


def seq2seq_collate_fn(batch: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """`input_ids` and `segment_ids` → [B, L] each; `labels` are the inputs from the second token on, [B, L - 1]."""
    inputs = _inputs(batch)
    return inputs | {"labels": inputs["input_ids"][:, 1:].contiguous()}


def _inputs(batch: Sequence[Sample]) -> dict[str, torch.Tensor]:
    key = "segment_ids" if "segment_ids" in batch[0] else "token_type_ids"
    ids = [list(row) for row in _column(batch, "input_ids")]
    segments = [list(sample.get(key) or [0] * len(row)) for sample, row in zip(batch, ids, strict=True)]
    return {"input_ids": torch.from_numpy(pad(ids, 0)), "segment_ids": torch.from_numpy(pad(segments, 0))}


def _padding_mask(batch: Sequence[Sample], length: int) -> dict[str, torch.Tensor]:
    ones = [[1] * len(row) for row in _column(batch, "input_ids")]
    return {"padding_mask": torch.from_numpy(pad(ones, 0, length=length)).bool()}


def _column(batch: Sequence[Sample], name: str) -> list[Any]:
    missing = [i for i, sample in enumerate(batch) if name not in sample]
    if missing:
        raise DataError(
            f"sample {missing[0]} of the batch has no {name!r} (it has {', '.join(batch[missing[0]])})",
            where="flagai.data.collate_utils",
            expected="a dict with input_ids, segment_ids and labels",
        )
    return [sample[name] for sample in batch]
