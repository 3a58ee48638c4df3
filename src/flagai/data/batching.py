"""Examples → the batches of every step: length buckets, token budgets, O(1) seek. Knows no model and no task.

The examples of step k are a pure function of (seed, epoch, k, data hash). Ranks and accumulation only cut that list,
so neither the world size nor the number of workers nor a resumed run can change what a step learns from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flagai.data.example import Example, Examples
from flagai.data.streams import stream
from flagai.errors import ConfigError

_POOL_BATCHES = 64  # how many batches are sorted by length together: larger pads less, smaller mixes more


def pad(
    rows: Sequence[Sequence[Any] | np.ndarray], value: Any, *, length: int | None = None, dtype: Any = np.int64
) -> np.ndarray:
    """Right-pad rows with `value` to `length` (default: the longest row) → array [rows, length]."""
    width = max((len(row) for row in rows), default=0) if length is None else length
    out = np.full((len(rows), width), value, dtype=dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def slots_of(examples: Sequence[Example]) -> np.ndarray:
    """`Example.slots` of each, int64 [examples]; examples that are made when asked for are not made for it."""
    if isinstance(examples, Examples):
        return np.asarray(examples.lengths, dtype=np.int64)
    return np.array([example.slots for example in examples], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Fill:
    """How full the batches are: `useful` real tokens in `slots` positions."""

    useful: int
    slots: int

    @property
    def share(self) -> float:
        """Useful tokens / slots, in [0, 1]; 1 for an empty batch."""
        return self.useful / self.slots if self.slots else 1.0


class BatchPlan:
    """Which examples each optimizer step sees.

    Args:
        lengths: tokens of each example, or a function from the 0-based epoch to them.
        batch_size: examples of one optimizer step over all processes, or
        batch_tokens: most token slots (examples × longest) of one optimizer step over all processes.
        seed, data_hash: with the epoch, all that the order depends on.

    Raises:
        ConfigError: both or neither budget given, or an example longer than `batch_tokens`.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray | Callable[[int], np.ndarray],
        *,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        seed: int,
        data_hash: str,
    ) -> None:
        if (batch_size is None) == (batch_tokens is None):
            raise ConfigError("need exactly one of batch_size and batch_tokens", where="train")
        self._of_epoch = lengths if callable(lengths) else None
        self._lengths = lengths(0) if callable(lengths) else np.asarray(lengths, dtype=np.int64)
        if batch_tokens is not None and len(self._lengths) and self._lengths.max() > batch_tokens:
            raise ConfigError(
                f"an example of {self._lengths.max()} tokens does not fit a budget of {batch_tokens}",
                where="train.batch_tokens",
                expected="at least the longest example",
                fix="raise train.batch_tokens or lower data.max_length",
            )
        self._batch_size, self._batch_tokens = batch_size, batch_tokens
        self._seed, self._data_hash = seed, data_hash
        self.key = f"{batch_size}/{batch_tokens}/{seed}/{data_hash}"
        """what the steps of all epochs depend on"""
        self._cached: tuple[int, list[np.ndarray]] = (-1, [])
        self._counts: dict[int, int] = {}

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """All steps of an epoch, each an array of example indices in ascending order of length."""
        number, steps = self._cached  # one read: threads that prepare batches ahead share this plan
        if number != epoch:
            steps = self._cut(epoch)
            self._cached = (epoch, steps)
            self._counts[epoch] = len(steps)
        return steps

    def num_steps(self, epoch: int) -> int:
        """Optimizer steps of the 0-based epoch; the last of a fixed `batch_size` may be smaller than the others."""
        if epoch not in self._counts:
            if self._batch_size is not None:
                self._counts[epoch] = -(-len(self._lengths_at(epoch)) // self._batch_size)
            else:
                self._counts[epoch] = len(self._cut(epoch))
        return self._counts[epoch]

    def counted(self) -> list[int]:
        """Steps of the first epochs, as far as they were counted."""
        counts: list[int] = []
        while len(counts) in self._counts:
            counts.append(self._counts[len(counts)])
        return counts

    def recall(self, counts: Sequence[int]) -> None:
        """Take over what `counted` gave for a plan of the same `key`: to find a step, no earlier epoch is cut again."""
        self._counts |= dict(enumerate(counts))

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, step within it) of the 0-based global step."""
        if self._batch_size is not None and self._of_epoch is None:
            return divmod(step, self.num_steps(0))
        epoch = 0
        while step >= self.num_steps(epoch):
            step -= self.num_steps(epoch)
            epoch += 1
        return epoch, step

    def step(self, step: int) -> np.ndarray:
        """Example indices of the 0-based global step."""
        epoch, k = self.locate(step)
        return self.epoch(epoch)[k]

    def fill(self, indices: np.ndarray) -> Fill:
        """How full the one batch of these examples (of the first epoch) is, padded to the longest of them."""
        lengths = self._lengths[indices]
        return Fill(int(lengths.sum()), int(lengths.max(initial=0)) * len(lengths))

    def _lengths_at(self, epoch: int) -> np.ndarray:
        return self._lengths if self._of_epoch is None else self._of_epoch(epoch)

    def _cut(self, epoch: int) -> list[np.ndarray]:
        rng, lengths = stream(self._seed, epoch, self._data_hash), self._lengths_at(epoch)
        order = rng.permutation(len(lengths))
        batches = [batch for pool in self._pools(order, lengths) for batch in self._batches(pool, lengths)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _pools(self, order: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
        """Cut the shuffled order into pools and sort each by length (stable: ties stay shuffled)."""
        if self._batch_size is not None:
            size = self._batch_size * _POOL_BATCHES
        else:
            mean = max(1.0, float(lengths.mean())) if len(lengths) else 1.0
            size = max(1, int((self._batch_tokens or 0) / mean)) * _POOL_BATCHES
        pools = [order[i : i + size] for i in range(0, len(order), size)]
        return [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]

    def _batches(self, pool: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
        if self._batch_size is not None:
            return [pool[i : i + self._batch_size] for i in range(0, len(pool), self._batch_size)]
        return cut_by_tokens(pool, lengths, self._batch_tokens or 0)


def cut_by_tokens(order: np.ndarray, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Cut `order` (ascending lengths) into runs whose count × longest stays within `budget` token slots."""
    batches, start = [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > budget:
            batches.append(order[start:end])
            start = end
    return batches


def cut(indices: np.ndarray, *, accumulation: int = 1, axis: tuple[int, int] = (0, 1)) -> list[np.ndarray]:
    """One rank's micro-batches of a step: every `axis[1]`-th example (lengths stay balanced), in equal runs."""
    index, count = axis
    mine = indices[index::count]
    return [part for part in np.array_split(mine, accumulation) if len(part)]
