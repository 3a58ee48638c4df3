"""Several corpora in one stream, each with its share: a position decides which sample stands there. Knows no model.

No draw depends on the one before: position p of a mixture has a corpus and a number there by arithmetic alone, so that
a run may begin anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np

from flagai.data.corpus_samples import Sample, Samples, SampleSource
from flagai.data.streams import stream
from flagai.errors import ConfigError

PERIOD: Final = 1 << 12
"""the pattern of corpora repeats after so many positions; shares are exact to half of 1 / PERIOD"""


class Mixture:
    """A source whose samples come from several, in the shares of their weights.

    An epoch has as many samples as all sources together have in their first one. A source whose share is larger than
    its size begins again (with its next epoch) before the others are through; one whose share is smaller goes on in the
    next epoch of the mixture where it stopped. In each of its epochs a source gives every sample once, shuffled.

    Args:
        sources: what is mixed.
        weights: one number above 0 each; shares are weights / their sum. They count samples, not tokens.
        seed: of the order.

    Raises:
        ConfigError: no sources, not one weight each, or a weight that is not above 0 (or vanishes beside the others).
    """

    def __init__(self, sources: Sequence[SampleSource], weights: Sequence[float], *, seed: int) -> None:
        self._sources, self._seed = list(sources), seed
        self.counts = _counts(sources, weights)
        self._pattern = _pattern(self.counts)
        self._before = _before(self._pattern, len(sources))
        self._sizes = [len(source.epoch(0)) for source in sources]
        self._size = sum(self._sizes)
        self._cached: dict[int, _Epoch] = {}

    @property
    def hash(self) -> str:
        """sha256 of the sources and their shares."""
        told = [*(source.hash for source in self._sources), *map(str, self.counts)]
        return hashlib.sha256("/".join(told).encode()).hexdigest()

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, how many of its samples came before) of positions [n] ≥ 0 in the endless stream."""
        blocks, inner = np.divmod(positions, PERIOD)
        which = self._pattern[inner]
        return which, blocks * self.counts[which] + self._before[inner]

    def epoch(self, number: int) -> Samples:
        """The samples of the 0-based epoch; the last two epochs asked for are kept."""
        found = self._cached.get(number)
        if found is None:
            found = self._make(number)
            self._cached = {key: value for key, value in self._cached.items() if key == number - 1} | {number: found}
        return found

    def _make(self, number: int) -> _Epoch:
        which, numbers = self.locate(np.arange(self._size) + number * self._size)
        return _Epoch(self._sources, self._sizes, which, numbers, self._seed)


class _Epoch:
    """One stretch of the stream: for each position the samples of a source's epoch and an index into them."""

    def __init__(
        self, sources: Sequence[SampleSource], sizes: Sequence[int], which: np.ndarray, numbers: np.ndarray, seed: int
    ) -> None:
        self._parts: list[Samples] = []
        self._part = np.empty(len(which), dtype=np.int64)
        self._index = np.empty(len(which), dtype=np.int64)
        self.lengths = np.empty(len(which), dtype=np.int64)
        for at, (source, size) in enumerate(zip(sources, sizes, strict=True)):
            mine = np.flatnonzero(which == at)
            self._fill(mine, *np.divmod(numbers[mine], size), source, (seed, at))

    def _fill(
        self, mine: np.ndarray, epochs: np.ndarray, inner: np.ndarray, source: SampleSource, key: tuple[int, int]
    ) -> None:
        """Take the positions `mine` from the source's epochs, one after another."""
        for number in np.unique(epochs).tolist():
            here = mine[epochs == number]
            samples = source.epoch(number)
            # An epoch may have a few samples more or fewer than the first: it is read around its end.
            order = stream("mixture", *key, number).permutation(len(samples))
            self._part[here] = len(self._parts)
            self._index[here] = order[inner[epochs == number] % len(samples)]
            self.lengths[here] = samples.lengths[self._index[here]]
            self._parts.append(samples)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int, /) -> Sample:
        return self._parts[self._part[index]][int(self._index[index])]


class Chain:
    """A source whose samples are those of several, one after another, the same in every epoch: for held-out data.

    Args:
        sources: what stands one after another; each gives the samples of its first epoch.
    """

    def __init__(self, sources: Sequence[SampleSource]) -> None:
        self._sources = list(sources)
        self._parts = [source.epoch(0) for source in sources]
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.lengths = np.concatenate([part.lengths for part in self._parts])

    @property
    def hash(self) -> str:
        """sha256 of the sources."""
        return hashlib.sha256("/".join(source.hash for source in self._sources).encode()).hexdigest()

    def epoch(self, number: int) -> Samples:
        """The same samples, whatever the epoch."""
        return self

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int, /) -> Sample:
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part][index - int(self._ends[part]) + len(self._parts[part])]


def _counts(sources: Sequence[SampleSource], weights: Sequence[float]) -> np.ndarray:
    """How many positions of a period each source has: the largest remainders are rounded up."""
    if not sources or len(sources) != len(weights) or not all(weight > 0 for weight in weights):
        raise ConfigError(
            f"{len(sources)} corpora with the weights {list(weights)}",
            expected="one weight above 0 for each corpus",
            where="data.train",
        )
    shares = np.asarray(weights, dtype=np.float64) / sum(weights) * PERIOD
    counts = np.floor(shares).astype(np.int64)
    rest = np.argsort(counts - shares, kind="stable")[: PERIOD - int(counts.sum())]
    counts[rest] += 1
    if not counts.all():
        raise ConfigError(
            f"the weight {weights[int(counts.argmin())]} vanishes beside {max(weights)}",
            expected=f"at least 1/{PERIOD} of the sum of all weights",
            where="data.train",
        )
    return counts


def _pattern(counts: np.ndarray) -> np.ndarray:
    """The source of each position of a period [PERIOD], each spread as evenly as can be."""
    places = [(np.arange(count) + 0.5) / count for count in counts]
    owners = [np.full(count, at) for at, count in enumerate(counts)]
    order = np.argsort(np.concatenate(places), kind="stable")
    return np.concatenate(owners)[order]


def _before(pattern: np.ndarray, sources: int) -> np.ndarray:
    """For each position of a period, how often its source stood before it in the period."""
    before = np.empty_like(pattern)
    for at in range(sources):
        mine = np.flatnonzero(pattern == at)
        before[mine] = np.arange(len(mine))
    return before
