"""Mean loss and the old metric functions of a model over a dataset. Knows no training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flagai._compat._adapters.batches import OldTask, collate_of, dataset_of, is_loader, unpacked
from flagai.parallel.strategy import Strategy

_IGNORED = -100
Metric = Sequence[Any]
"""[name, function(predictions, labels, meta=…)]"""


def save_best(best_score: float, eval_dict: dict[str, float]) -> float:
    """The better of two scores: the lower loss."""
    return min(best_score, eval_dict["loss"])


def measure(
    strategy: Strategy,
    source: Any,
    *,
    batch_size: int,
    collate_fn: Any,
    metrics: Sequence[Metric],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """{metric: value, …, "loss": mean over all examples}; each metric is called once, with everything."""
    task = OldTask(collate_of(source, collate_fn))
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    metas: list[Any] = []
    loss_sum, count = 0.0, 0.0
    samples = dataset_of(source)
    for indices in _batches(source, batch_size):
        part = [samples[i] for i in indices]
        batch = task.collate(part)
        outputs, loss = strategy.evaluate(batch, task.loss)  # type: ignore[arg-type]
        assert loss is not None
        loss_sum, count = loss_sum + loss[0], count + loss[1]
        if metrics:
            logits.append(outputs["logits"].float().cpu())
            labels.append(_labels(unpacked(batch)))
            metas.append(task.last_meta)
        if progress is not None:
            progress(int(count), len(samples))
    values = {}
    if metrics:
        predictions, wanted, meta = _join(logits, 0.0), _join(labels, _IGNORED), _join_meta(metas)
        values = {str(name): float(function(predictions, wanted, meta=meta)) for name, function in metrics}
    return {**values, "loss": loss_sum / count}


def _batches(source: Any, batch_size: int) -> Iterator[Sequence[int]]:
    if is_loader(source) and source.batch_sampler is not None:
        yield from source.batch_sampler
        return
    total = len(dataset_of(source))
    yield from (range(i, min(i + batch_size, total)) for i in range(0, total, batch_size))


def _labels(data: dict[str, Tensor]) -> Tensor:
    """`labels`, else `target_ids`; what stands on padding is marked as no label."""
    labels = data["labels"] if "labels" in data else data.get("target_ids", torch.empty(0))
    mask = data.get("padding_mask")
    if mask is not None and mask.shape == labels.shape:
        return labels.masked_fill(~mask.bool(), _IGNORED)
    return labels


def _join(parts: list[Tensor], value: float) -> Tensor:
    """Batches one after the other; where they are of different length, all are padded to the longest."""
    sizes = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].ndim)]
    padded = []
    for part in parts:
        missing = [size - have for size, have in zip(sizes, part.shape[1:], strict=True)]
        if any(missing):
            amounts = [amount for size in reversed(missing) for amount in (0, size)]
            # Grids of labels have no mark for "no label"; what lies outside is no entity.
            part = torch.nn.functional.pad(part, amounts, value=value if part.ndim == 2 else 0)
        padded.append(part)
    return torch.cat(padded)


def _join_meta(metas: list[Any]) -> Any:
    if all(isinstance(meta, dict) for meta in metas):
        return {key: [item for meta in metas for item in meta[key]] for key in metas[0]}
    if all(isinstance(meta, list) for meta in metas):
        return [item for meta in metas for item in meta]
    return metas[-1]
