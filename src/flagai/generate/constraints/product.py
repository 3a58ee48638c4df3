"""How far it is from the end of a text that meets all constraints at once. Knows automata, no tokens and no model.

The automata are joined: the states that can be reached together, and for each the fewest tokens to a state in which
all accept, as far as characters tell it (a character costs what it takes alone). So a word that must still come and
a length that is nearly used up are seen together. Where the joined states are too many, distances are added instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from flagai.generate.constraints.automata import DEAD, Automaton, Trie

FAR: Final = 32_000
"""the distance of what cannot be reached; sums of it with small numbers stay within int16"""
_CHUNK: Final = 1 << 21
_MOST_EDGES: Final = 1 << 24


@dataclass(frozen=True, eq=False)
class Letters:
    """The characters that no automaton tells apart, taken for one.

    Args:
        of_character: int32 [alphabet]: the letter of each character, `DEAD` for those that may not come.
        classes: for each automaton int32 [letters + 1]: the class of each letter; `DEAD` behind them.
        costs: int64 [letters]: tokens that the cheapest of its characters takes.
    """

    of_character: np.ndarray
    classes: tuple[np.ndarray, ...]
    costs: np.ndarray


def join_letters(automata: Sequence[Automaton], costs: np.ndarray, usable: np.ndarray) -> Letters:
    """The letters of these automata.

    Args:
        costs: int64 [alphabet].
        usable: bool [alphabet]: whether some token writes the character.
    """
    stacked = np.stack([one.classes for one in automata])
    usable = usable & (stacked >= 0).all(0)
    kinds, letters = np.unique(stacked[:, usable], axis=1, return_inverse=True)
    of_character = np.full(stacked.shape[1], DEAD, dtype=np.int32)
    of_character[usable] = letters.reshape(-1)
    cheapest = np.full(kinds.shape[1], FAR, dtype=np.int64)
    np.minimum.at(cheapest, letters.reshape(-1), costs[usable])
    classes = tuple(np.append(row, DEAD).astype(np.int32) for row in kinds)
    return Letters(of_character, classes, cheapest)


class Distances:
    """Tokens from a joint state to an accepting one; `FAR` where there is no way."""

    def __init__(self, automata: Sequence[Automaton], letters: Letters) -> None:
        self._automata, self._letters = tuple(automata), letters
        self._sizes = [one.num_states for one in automata]
        self._codes, self._values = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        self._parts: list[np.ndarray] | None = None
        if not self._explore():
            self._parts = [self._alone(i) for i in range(len(automata))]

    @property
    def exact(self) -> bool:
        """Whether the automata were joined."""
        return self._parts is None

    def of(self, states: Sequence[np.ndarray]) -> np.ndarray:
        """int64 [n]: of n joint states, an array for each automaton; dead ones are far."""
        alive = np.logical_and.reduce([one >= 0 for one in states])
        if self._parts is not None:
            far = sum(part[np.maximum(one, 0)] for part, one in zip(self._parts, states, strict=True))
            return np.where(alive, np.minimum(far, FAR), FAR)
        if not len(self._codes):
            return np.full(len(alive), FAR)
        codes = self._encode(states)
        places = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        return np.where(alive & (self._codes[places] == codes), self._values[places], FAR)

    def _encode(self, states: Sequence[np.ndarray]) -> np.ndarray:
        codes = np.zeros(np.broadcast_shapes(*(one.shape for one in states)), dtype=np.int64)
        for size, one in zip(self._sizes, states, strict=True):
            codes = codes * size + one
        return codes

    def _decode(self, codes: np.ndarray) -> list[np.ndarray]:
        states: list[np.ndarray] = []
        for size in reversed(self._sizes):
            states.append(codes % size)
            codes = codes // size
        return states[::-1]

    def _accepts(self, codes: np.ndarray) -> np.ndarray:
        found = zip(self._automata, self._decode(codes), strict=True)
        return np.logical_and.reduce([one.accepts[states] for one, states in found])

    def _explore(self) -> bool:
        """All joint states and their distances; False where they are too many."""
        if float(np.prod([float(size) for size in self._sizes])) > 2.0**62:
            return False
        found = self._edges_of_trie() if isinstance(self._automata[0], Trie) else self._edges()
        if found is None:
            return False
        start = self._encode([np.array([one.start]) for one in self._automata])
        sources, targets, costs = found
        self._codes = np.unique(np.concatenate([start, sources, targets]))
        self._values = _distances(
            np.searchsorted(self._codes, sources),
            np.searchsorted(self._codes, targets),
            costs,
            self._accepts(self._codes),
        )
        return True

    def _edges_of_trie(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        trie = self._automata[0]
        assert isinstance(trie, Trie) and len(self._automata) == 1
        costs = np.full(trie.width, FAR, dtype=np.int64)
        costs[self._letters.classes[0][:-1]] = self._letters.costs
        sources, classes = trie.keys // trie.width, trie.keys % trie.width
        return sources, trie.targets.astype(np.int64), costs[classes]

    def _edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        frontier = seen = self._encode([np.array([one.start]) for one in self._automata])
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        total, width = 0, max(len(self._letters.costs), 1)
        while len(frontier):
            reached = []
            for at in range(0, len(frontier), max(_CHUNK // width, 1)):
                parts.append(self._step(frontier[at : at + max(_CHUNK // width, 1)]))
                reached.append(parts[-1][1])
                total += len(reached[-1])
                if total > _MOST_EDGES and len(self._automata) > 1:
                    return None
            frontier = np.setdiff1d(np.concatenate(reached), seen)
            seen = np.union1d(seen, frontier)
        sources, targets, costs = (np.concatenate([part[i] for part in parts]) for i in range(3))
        return sources, targets, costs

    def _step(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(source, target, cost) of all ways on, the same two states once only, by the cheapest letter."""
        pairs = zip(self._automata, self._decode(codes), self._letters.classes, strict=True)
        nexts = [one.follow(states[:, None], classes[None, :-1]) for one, states, classes in pairs]
        alive = np.logical_and.reduce([one >= 0 for one in nexts])
        rows, columns = np.nonzero(alive)
        targets = self._encode(nexts)[rows, columns]
        costs = self._letters.costs[columns]
        order = np.lexsort((costs, targets, rows))
        rows, targets, costs = rows[order], targets[order], costs[order]
        first = np.ones(len(rows), dtype=bool)
        first[1:] = (rows[1:] != rows[:-1]) | (targets[1:] != targets[:-1])
        return codes[rows[first]], targets[first], costs[first]

    def _alone(self, i: int) -> np.ndarray:
        """Distances of one automaton by itself, for each of its states."""
        classes = (self._letters.classes[i],)
        alone = Distances([self._automata[i]], Letters(self._letters.of_character, classes, self._letters.costs))
        return alone.of([np.arange(self._sizes[i])])


def _distances(sources: np.ndarray, targets: np.ndarray, costs: np.ndarray, accepts: np.ndarray) -> np.ndarray:
    """Along the cheapest way from each state to one that accepts: the ways are walked backwards from a common end."""
    size = len(accepts)
    ends = np.flatnonzero(accepts)
    if not len(ends):
        return np.full(size, FAR)
    rows = np.concatenate([targets, np.full(len(ends), size)])
    columns = np.concatenate([sources, ends])
    weights = np.concatenate([costs, np.ones(len(ends), dtype=np.int64)])  # a way of no length would be none
    graph = csr_array((weights.astype(np.float64), (rows, columns)), shape=(size + 1, size + 1))
    found = dijkstra(graph, indices=size)[:size] - 1
    return np.where(np.isfinite(found), found, FAR).clip(max=FAR).astype(np.int64)
