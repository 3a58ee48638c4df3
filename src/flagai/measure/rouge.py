"""ROUGE: how many n-grams, and how long a common subsequence, two texts share. It knows units, not how text is cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

Units = Sequence[str]


def ngrams(units: Units, n: int) -> Counter[tuple[str, ...]]:
    """How often each run of `n` units occurs; empty where there are fewer."""
    return Counter(zip(*(units[start:] for start in range(n)), strict=False))


def rouge_n(reference: Units, predicted: Units, n: int) -> float:
    """F1 of the n-grams that both have, in [0, 1]: ROUGE-N of Lin (2004) with precision and recall weighed alike.

    Texts that are both too short for an n-gram score 1 where they are equal and 0 where not, so that equal texts always
    score 1.
    """
    wanted, found = ngrams(reference, n), ngrams(predicted, n)
    if not wanted and not found:
        return float(list(reference) == list(predicted))
    return _f1(sum((wanted & found).values()), sum(wanted.values()), sum(found.values()))


def rouge_l(reference: Units, predicted: Units) -> float:
    """F1 of the longest common subsequence, in [0, 1]: ROUGE-L of Lin (2004) on whole texts, two empty ones equal."""
    if not reference and not predicted:
        return 1.0
    return _f1(lcs_length(reference, predicted), len(reference), len(predicted))


def lcs_length(a: Units, b: Units) -> int:
    """The length of the longest common subsequence.

    All of a row of the usual table at once, as the bits of one integer (Hyyrö 2004, after Crochemore et al. 2001): a
    bit is 0 where the row grows. It takes len(b) steps instead of len(a) · len(b).
    """
    places: dict[str, int] = {}
    for at, unit in enumerate(a):
        places[unit] = places.get(unit, 0) | 1 << at
    whole = (1 << len(a)) - 1
    row = whole
    for unit in b:
        matches = row & places.get(unit, 0)
        row = ((row + matches) | (row - matches)) & whole
    return len(a) - row.bit_count()


def _f1(shared: int, wanted: int, found: int) -> float:
    return 2 * shared / (wanted + found) if wanted + found else 0.0
