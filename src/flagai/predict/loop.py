"""The one loop from examples to results. Knows no trainer; the model is whatever `evaluate` runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flagai.data.batching import Fill, cut_by_tokens
from flagai.data.example import Example
from flagai.data.record import Record
from flagai.tasks.base import Task

BATCH_TOKENS = 4096
"""token slots of a batch in evaluation; results do not depend on it, speed and memory do"""

Evaluate = Callable[[Mapping[str, Any], Any], tuple[Mapping[str, Any], tuple[float, float] | None]]
"""`Strategy.evaluate`: (batch, loss or None) → (outputs, (loss sum, count) or None)"""

Rows = list[dict[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Model outputs in the order of the examples, the mean loss where asked for, and how full the batches were."""

    rows: Rows
    loss: float | None
    fill: Fill


def run(
    task: Task,
    evaluate: Evaluate,
    examples: Sequence[Example],
    *,
    names: Sequence[str] | None = None,
    with_loss: bool = False,
    batch_tokens: int | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outputs:
    """Run the model over examples, sorted by length, one dict of arrays an example in the given order.

    Args:
        names: outputs to collect; default those that `task.decode` needs.
        with_loss: also the mean loss; every example needs a target.
        batch_tokens, batch_size: the size of batches; answers do not depend on it.
        progress: called with (examples done, examples in all) after each batch.
    """
    names = task.outputs if names is None else names
    rows: list[dict[str, np.ndarray] | None] = [None] * len(examples)
    loss_sum, count, slots, useful, done = 0.0, 0.0, 0, 0, 0
    for indices in _batches(examples, batch_tokens or BATCH_TOKENS, batch_size):
        part = [examples[i] for i in indices]
        batch = task.collate(part)
        outputs, loss = evaluate(batch, task.loss if with_loss else None)
        for i, row in zip(indices, _rows(task, outputs, part, names), strict=True):
            rows[i] = row
        if loss is not None:
            loss_sum, count = loss_sum + loss[0], count + loss[1]
        slots += batch["input_ids"].size
        useful += int(batch["attention_mask"].sum())
        done += len(part)
        if progress is not None:
            progress(done, len(examples))
    return Outputs([row for row in rows if row is not None], loss_sum / count if count else None, Fill(useful, slots))


def decode(task: Task, rows: Rows, examples: Sequence[Example], records: Sequence[Record]) -> list[Any]:
    """One result a record from the rows of its windows."""
    windows: list[list[int]] = [[] for _ in records]
    for i, example in enumerate(examples):
        windows[example.record].append(i)
    return [
        task.decode([rows[i] for i in indices], [examples[i] for i in indices], record)
        for indices, record in zip(windows, records, strict=True)
    ]


def _batches(examples: Sequence[Example], batch_tokens: int, batch_size: int | None) -> Iterator[np.ndarray]:
    """Longest last: batches of examples of similar length."""
    lengths = np.array([len(example) for example in examples], dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    if batch_size is not None:
        yield from (order[i : i + batch_size] for i in range(0, len(order), batch_size))
    elif len(order):
        yield from cut_by_tokens(order, lengths, max(batch_tokens, int(lengths.max())))


def _rows(task: Task, outputs: Mapping[str, Any], part: Sequence[Example], names: Sequence[str]) -> Rows:
    arrays = {name: _blocks(_array(outputs[name]), len(part)) for name in names}
    shared = {name: _array(outputs[name]) for name in task.shared_outputs if name in outputs}
    rows = []
    for i, example in enumerate(part):
        row = {name: _cut(array[i], task.token_axes.get(name, ()), len(example)) for name, array in arrays.items()}
        rows.append(row | shared)
    return rows


def _blocks(array: np.ndarray, count: int) -> np.ndarray:
    """Outputs of k inputs an example (all first texts, then all second ones) → [count, k, …]; for k = 1 as they are."""
    if len(array) == count:
        return array
    return np.moveaxis(array.reshape(-1, count, *array.shape[1:]), 0, 1)


def _cut(array: np.ndarray, axes: Sequence[int], length: int) -> np.ndarray:
    index = [slice(None)] * array.ndim
    for axis in axes:
        index[axis] = slice(length)
    # A copy, so that a short row does not keep its whole padded batch alive.
    return array[tuple(index)].copy()


def _array(value: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else value.detach().float().cpu().numpy()
