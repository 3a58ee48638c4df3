"""From scores to tags, spans and probabilities in NumPy: Viterbi, forward-backward, span grids, windows.

It imports no torch, so that training, a torch-free server and an exported model decode with the same lines; it knows no
tokenizer and no text: spans are half-open ranges of positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

_CONTINUES: Final = frozenset("IMEL")  # goes on with an open entity of its type
_CLOSES: Final = frozenset("ELSU")  # nothing may follow within the entity
_OUTSIDE: Final = "O"


@dataclass(frozen=True, slots=True)
class Span:
    """Positions [start, end) of one type. `score` is a probability where a decoder made it."""

    start: int
    end: int
    label: str
    score: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class TagGrammar:
    """Which tags may start, follow one another (row → column) and end: booleans [C], [C, C], [C]."""

    start: np.ndarray
    between: np.ndarray
    end: np.ndarray

    def to_json(self) -> dict[str, list[Any]]:
        """Plain lists, the form that the option `allowed` of the CRF head takes."""
        return {name: getattr(self, name).tolist() for name in ("start", "between", "end")}


def softmax(logits: np.ndarray, axis: int = -1) -> np.ndarray:
    """exp(x) / Σ exp(x) along `axis`, safe for large values, in fp64."""
    logits = np.asarray(logits, dtype=np.float64)
    weights = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return weights / weights.sum(axis=axis, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), safe for large values of both signs, in fp64."""
    logits = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


def split_tag(tag: str) -> tuple[str, str]:
    """`"B-PER"` → ("B", "PER"); `"O"` → ("O", ""). The type may contain hyphens."""
    prefix, _, kind = tag.partition("-")
    return prefix, kind


def tag_grammar(tags: Sequence[str]) -> TagGrammar:
    """The legal sequences of these tags: IOB2, or BIOES/BILOU where a tag with E, L, S or U is among them.

    IOB2: I-X only after B-X or I-X. BIOES: B-X or I-X is followed by I-X or E-X, everything else by O, B-X or S-X.
    """
    parts = [split_tag(tag) for tag in tags]
    closing = any(prefix in _CLOSES for prefix, _ in parts)
    goes_on = np.array([prefix in _CONTINUES for prefix, _ in parts])
    is_open = np.array([prefix != _OUTSIDE and prefix not in _CLOSES for prefix, _ in parts])
    same = np.array([[a[1] == b[1] for b in parts] for a in parts], dtype=bool).reshape(len(parts), len(parts))
    continued = is_open[:, None] & goes_on[None, :] & same
    fresh = ~goes_on[None, :] & (~is_open[:, None] if closing else True)
    end = ~is_open if closing else np.ones(len(parts), dtype=bool)
    return TagGrammar(start=~goes_on, between=continued | fresh, end=end)


def viterbi(
    emissions: np.ndarray,
    transitions: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    allowed: TagGrammar | None = None,
) -> tuple[list[int], float]:
    """The best path and its score, start + Σ emissions + Σ transitions + end.

    Args:
        emissions: [L, C], one row for each position that carries a tag.
        transitions: [C, C], from row to column. start, end: [C]
        allowed: paths outside it are not considered.

    Returns:
        (tag ids of length L, score). Of equal paths the one with the smaller ids from the end on. ([], 0.0) for L = 0.
    """
    if not len(emissions):
        return [], 0.0
    emissions, transitions, start, end = _constrained(emissions, transitions, start, end, allowed)
    best = start + emissions[0]
    back: list[np.ndarray] = []
    for row in emissions[1:]:
        step = best[:, None] + transitions
        back.append(step.argmax(axis=0))
        best = step.max(axis=0) + row
    best = best + end
    path = [int(best.argmax())]
    for pointers in reversed(back):
        path.append(int(pointers[path[-1]]))
    return path[::-1], float(best.max())


@dataclass(frozen=True, kw_only=True, eq=False)
class Lattice:
    """Forward and backward log-sums over all paths of one sentence: [L, C] each, and log Z."""

    emissions: np.ndarray
    transitions: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    log_z: float

    def marginals(self) -> np.ndarray:
        """[L, C]: the probability of each tag at each position; rows sum to 1."""
        return np.exp(self.forward + self.backward - self.log_z)

    def segment_probability(self, first: int, tags: Sequence[int]) -> float:
        """The probability that the positions from `first` on carry exactly these tags (whatever stands around them)."""
        total = self.forward[first, tags[0]]
        for position, (previous, tag) in enumerate(pairwise(tags), start=first + 1):
            total = total + self.transitions[previous, tag] + self.emissions[position, tag]
        return float(np.exp(total + self.backward[first + len(tags) - 1, tags[-1]] - self.log_z))


def crf_lattice(
    emissions: np.ndarray,
    transitions: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    allowed: TagGrammar | None = None,
) -> Lattice:
    """Forward-backward sums (Lafferty, McCallum & Pereira 2001, section 3); arguments as in `viterbi`, L ≥ 1."""
    emissions, transitions, start, end = _constrained(emissions, transitions, start, end, allowed)
    forward, backward = np.empty_like(emissions), np.empty_like(emissions)
    forward[0], backward[-1] = start + emissions[0], end
    for position in range(1, len(emissions)):
        forward[position] = (
            np.logaddexp.reduce(forward[position - 1][:, None] + transitions, axis=0) + emissions[position]
        )
    for position in range(len(emissions) - 2, -1, -1):
        ahead = emissions[position + 1] + backward[position + 1]
        backward[position] = np.logaddexp.reduce(transitions + ahead[None, :], axis=1)
    log_z = float(np.logaddexp.reduce(forward[-1] + end, axis=0))
    return Lattice(emissions=emissions, transitions=transitions, forward=forward, backward=backward, log_z=log_z)


def crf_marginals(
    emissions: np.ndarray,
    transitions: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    allowed: TagGrammar | None = None,
) -> np.ndarray:
    """[L, C] probabilities of each tag at each position under the chain (and its grammar)."""
    if not len(emissions):
        return np.zeros((0, len(start)))
    return crf_lattice(emissions, transitions, start, end, allowed).marginals()


def _constrained(
    emissions: np.ndarray, transitions: np.ndarray, start: np.ndarray, end: np.ndarray, allowed: TagGrammar | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    parts = [np.asarray(part, dtype=np.float64) for part in (emissions, transitions, start, end)]
    if allowed is not None:
        for index, legal in ((1, allowed.between), (2, allowed.start), (3, allowed.end)):
            parts[index] = np.where(legal, parts[index], -np.inf)
    return parts[0], parts[1], parts[2], parts[3]


def spans_from_tags(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Entities of a tag sequence (IOB2, BIOES or BILOU) as (start, end exclusive, type), in order.

    Every sequence has one reading. B and S (U) begin an entity. I (M) and E (L) continue the entity that is open with
    the same type; where none is, they begin one. E, L, S and U close it; O, another type and the end of the text close
    it too.
    """
    spans: list[tuple[int, int, str]] = []
    begun: int | None = None
    kind = ""
    for position, tag in enumerate(tags):
        prefix, this_kind = split_tag(tag)
        continues = begun is not None and prefix in _CONTINUES and this_kind == kind
        if begun is not None and not continues:
            spans.append((begun, position, kind))
            begun = None
        if prefix == _OUTSIDE:
            continue
        if begun is None:
            begun, kind = position, this_kind
        if prefix in _CLOSES:
            spans.append((begun, position + 1, kind))
            begun = None
    if begun is not None:
        spans.append((begun, len(tags), kind))
    return spans


def decode_tags(
    emissions: np.ndarray,
    tags: Sequence[str],
    transitions: np.ndarray | None = None,
    start: np.ndarray | None = None,
    end: np.ndarray | None = None,
    allowed: TagGrammar | None = None,
) -> list[Span]:
    """The entities of the best path, each with its probability.

    Without transitions the chain has zeros there: it is then the softmax of each position, held to the grammar.
    The score of an entity is the probability that its positions carry its tags and that it does not go on:
    p(tags) - p(tags followed by I-X).

    Args:
        emissions: [L, C]. tags: the C names. transitions, start, end, allowed: as in `viterbi`.
    """
    if not len(emissions):
        return []
    size = len(tags)
    path = _best_without_chain(emissions, allowed) if transitions is None and start is None and end is None else None
    transitions = np.zeros((size, size)) if transitions is None else transitions
    start = np.zeros(size) if start is None else start
    end = np.zeros(size) if end is None else end
    if path is None:
        path, _ = viterbi(emissions, transitions, start, end, allowed)
    found = spans_from_tags([tags[tag] for tag in path])
    if not found:
        return []
    lattice = crf_lattice(emissions, transitions, start, end, allowed)
    return [Span(s, e, kind, _span_probability(lattice, tags, path, s, e)) for s, e, kind in found]


def _best_without_chain(emissions: np.ndarray, allowed: TagGrammar | None) -> list[int] | None:
    """The best tag of each position, if these are a legal path (then no path is better); None if they are not."""
    best = emissions.argmax(axis=1)
    if allowed is not None:
        moves = allowed.between[best[:-1], best[1:]]
        if not (allowed.start[best[0]] and allowed.end[best[-1]] and moves.all()):
            return None
    return best.tolist()


def _span_probability(lattice: Lattice, tags: Sequence[str], path: Sequence[int], start: int, end: int) -> float:
    segment = list(path[start:end])
    probability = lattice.segment_probability(start, segment)
    prefix, kind = split_tag(tags[segment[-1]])
    if end < len(path) and prefix not in _CLOSES:
        for tag in (
            i for i, name in enumerate(tags) if split_tag(name)[0] in _CONTINUES and split_tag(name)[1] == kind
        ):
            probability -= lattice.segment_probability(start, [*segment, tag])
    return min(max(probability, 0.0), 1.0)


def spans_from_scores(
    scores: np.ndarray, labels: Sequence[str], threshold: float = 0.0, *, flat: bool = False
) -> list[Span]:
    """Spans of a GlobalPointer grid above a threshold, by (start, end, type); scores become sigmoid(score).

    Args:
        scores: [C, L, L]; row = first position, column = last position (inclusive). Cells with last < first are
            ignored.
        labels: the C type names.
        threshold: a span counts when its score is greater.
        flat: of spans that overlap only the best stays, decided greedily from the best score down (equal scores: the
            earlier start, then the longer, then the smaller type). Otherwise all stay, nested or crossing.
    """
    scores = np.asarray(scores, dtype=np.float64)
    kinds, firsts, lasts = np.nonzero(scores > threshold)
    found = [(int(i), int(j), int(c)) for c, i, j in zip(kinds, firsts, lasts, strict=True) if i <= j]
    if flat:
        found = _without_overlaps(found, scores)
    return [Span(i, j + 1, labels[c], float(sigmoid(scores[c, i, j]))) for i, j, c in sorted(found)]


def _without_overlaps(found: list[tuple[int, int, int]], scores: np.ndarray) -> list[tuple[int, int, int]]:
    taken = np.zeros(scores.shape[-1], dtype=bool)
    kept = []
    for i, j, c in sorted(found, key=lambda cell: (-scores[cell[2], cell[0], cell[1]], cell[0], -cell[1], cell[2])):
        if not taken[i : j + 1].any():
            taken[i : j + 1] = True
            kept.append((i, j, c))
    return kept


def owned_ranges(windows: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Cut a text between its overlapping windows: each window owns up to the middle of its overlaps.

    Args:
        windows: half-open ranges in order of their starts.

    Returns:
        Half-open ranges that follow one another without gap, from the first start to the last end.
    """
    borders = [(left[1] + right[0]) // 2 for left, right in pairwise(windows)]
    if not windows:
        return []
    return list(zip([windows[0][0], *borders], [*borders, windows[-1][1]], strict=True))


def merge_windows(
    spans_per_window: Sequence[Sequence[Span]], owned: Sequence[tuple[int, int]], *, flat: bool = True
) -> list[Span]:
    """One list of spans from those of overlapping windows: a span is decided by the window that owns its start.

    Args:
        spans_per_window: for each window its spans, all in coordinates of the whole text.
        owned: for each window the range it owns, see `owned_ranges`.
        flat: spans of one window do not overlap, so those of two may not either: the later one falls.
    """
    kept: list[Span] = []
    for spans, (low, high) in zip(spans_per_window, owned, strict=True):
        border = max((span.end for span in kept), default=low)
        mine = [span for span in spans if low <= span.start < high]
        kept.extend(span for span in mine if not flat or span.start >= border)
    return sorted(kept, key=lambda span: (span.start, span.end, span.label))
