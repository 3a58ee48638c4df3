"""The one loop from examples to results. Knows no trainer; the model is whatever `evaluate` runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flagai.data.batching import cut_by_tokens, slots_of
from flagai.data.example import Example
from flagai.data.record import Record
from flagai.tasks.base import Task

BATCH_TOKENS = 4096
"""token slots of a batch in evaluation; results do not depend on it, speed and memory do"""

_MOST_LOSS = 700.0  # exp of more is no float

Evaluate = Callable[..., tuple[Mapping[str, Any], tuple[float, float] | None]]
"""`Strategy.evaluate`: (batch, loss or None, `generate` of a task that writes) → (outputs, (sum, count) or None)"""

Rows = list[dict[str, np.ndarray]]


@dataclass(kw_only=True)
class Tally:
    """The loss that a pass over examples adds up, where it is asked for."""

    loss_sum: float = 0.0
    count: float = 0.0

    @property
    def loss(self) -> float | None:
        """The mean loss, None where none was asked for."""
        return self.loss_sum / self.count if self.count else None


@dataclass(frozen=True, slots=True)
class Answers:
    """One result a record, in order, and the mean loss where asked for."""

    results: list[Any]
    loss: float | None


def answer(
    task: Task,
    evaluate: Evaluate,
    examples: Sequence[Example],
    records: Sequence[Record],
    *,
    with_loss: bool = False,
    batch_tokens: int | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """Run the model over the windows of records and decode each record as soon as its last window is there.

    Only the outputs of unfinished records are kept: a GlobalPointer grid has types × length² numbers.

    Args:
        examples: the windows of all records; `Example.record` is an index into `records`.
        with_loss: also the mean loss; every example needs a target.
        batch_tokens, batch_size: the size of batches; answers do not depend on it.
        progress: called with (examples done, examples in all) after each batch.
    """
    windows: list[list[int]] = [[] for _ in records]
    for i, example in enumerate(examples):
        windows[example.record].append(i)
    waiting: dict[int, dict[str, np.ndarray]] = {}
    results: list[Any] = [None] * len(records)
    tally, done = Tally(), 0
    loss = task.loss if with_loss else None
    for indices, rows in _passes(task, evaluate, examples, task.outputs, loss, tally, batch_tokens, batch_size):
        waiting.update(zip(indices, rows, strict=True))
        for number in dict.fromkeys(examples[i].record for i in indices):
            whole = windows[number]
            if all(i in waiting for i in whole):
                parts = [waiting.pop(i) for i in whole]
                results[number] = task.decode(parts, [examples[i] for i in whole], records[number])
        done += len(indices)
        if progress is not None:
            progress(done, len(examples))
    return Answers(results, tally.loss)


def mean_loss(
    task: Task,
    evaluate: Evaluate,
    examples: Sequence[Example],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> float | None:
    """The mean loss alone: nothing is written, and no output of the model is kept."""
    tally, done = Tally(), 0
    for indices in _batches(examples, BATCH_TOKENS, None):
        _, measured = evaluate(task.collate([examples[i] for i in indices]), task.loss)
        assert measured is not None, "a loss was asked for"
        tally.loss_sum, tally.count = tally.loss_sum + measured[0], tally.count + measured[1]
        done += len(indices)
        if progress is not None:
            progress(done, len(examples))
    return tally.loss


def loss_metrics(loss: float | None) -> dict[str, float]:
    """The metrics of a task that is measured by its loss: that, and the perplexity exp(loss)."""
    return {} if loss is None else {"loss": loss, "perplexity": math.exp(min(loss, _MOST_LOSS))}


def run(
    task: Task,
    evaluate: Evaluate,
    examples: Sequence[Example],
    *,
    names: Sequence[str] | None = None,
    batch_tokens: int | None = None,
    batch_size: int | None = None,
) -> Rows:
    """The model's outputs themselves, one dict of arrays an example in the given order.

    Args:
        names: outputs to collect; default those that `task.decode` needs.
    """
    rows: Rows = [{} for _ in examples]
    wanted = task.outputs if names is None else names
    for indices, part in _passes(task, evaluate, examples, wanted, None, Tally(), batch_tokens, batch_size):
        for i, row in zip(indices, part, strict=True):
            rows[i] = row
    return rows


def _passes(
    task: Task,
    evaluate: Evaluate,
    examples: Sequence[Example],
    names: Sequence[str],
    loss: Any,
    tally: Tally,
    batch_tokens: int | None,
    batch_size: int | None,
) -> Iterator[tuple[list[int], Rows]]:
    """Batch after batch: indices of the examples, and their outputs."""
    for indices in _batches(examples, batch_tokens or BATCH_TOKENS, batch_size):
        part = [examples[i] for i in indices]
        batch = task.collate(part)
        outputs, measured = evaluate(batch, loss, task.generate) if task.writes else evaluate(batch, loss)
        if measured is not None:
            tally.loss_sum, tally.count = tally.loss_sum + measured[0], tally.count + measured[1]
        # Outputs that somebody asks for by name are the model's own.
        kept = outputs if names != task.outputs else task.collect(outputs, batch, len(part))
        yield [int(i) for i in indices], _rows(task, kept, part, names)


def _batches(examples: Sequence[Example], batch_tokens: int, batch_size: int | None) -> Iterator[np.ndarray]:
    """Longest last: batches of examples of similar length."""
    lengths = slots_of(examples)
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
