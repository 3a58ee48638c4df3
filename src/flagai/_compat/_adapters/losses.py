"""The losses of the original's BERT heads from outputs and the batches its collate functions make. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from flagai.models.crf import crf_negative_log_likelihood
from flagai.models.global_pointer import global_pointer_loss

_IGNORED = -100


def loss_of(kind: str, outputs: Mapping[str, Tensor], data: Mapping[str, Any]) -> Tensor:
    """The mean loss of a batch: per text, per token that is not padding, or per entity type."""
    labels, logits = data["labels"], outputs["logits"].float()
    if kind == "classification":
        return functional.cross_entropy(logits, labels.reshape(-1).long())
    if kind == "ner-gp":
        total, count = global_pointer_loss(logits, labels)
        return total.sum() / count.sum()
    wanted = _without_padding(labels, data)
    if kind != "ner-crf":
        return functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=_IGNORED)
    mask = wanted != _IGNORED
    chain = [outputs[name] for name in ("transitions", "start_transitions", "end_transitions")]
    return crf_negative_log_likelihood(logits, wanted, mask, *chain).sum() / mask.sum().clamp(min=1)


def seq2seq_loss(logits: Tensor, data: Mapping[str, Any]) -> Tensor:
    """The mean loss of the tokens of segment 1, each predicted by the one before it; targets of id 0 do not count."""
    labels = data["labels"].long()
    segments = data.get("segment_ids", data.get("token_type_ids"))
    assert segments is not None, "a batch of seq2seq_collate_fn has segment_ids"
    wanted = labels.masked_fill((segments[:, 1:] == 0) | (labels == 0), _IGNORED)
    return functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), wanted.flatten(), ignore_index=_IGNORED)


def _without_padding(labels: Tensor, data: Mapping[str, Any]) -> Tensor:
    mask = data.get("padding_mask")
    mask = data["input_ids"] != 0 if mask is None else mask.bool()
    return labels.long().masked_fill(~mask, _IGNORED)
