"""BLEU and chrF from counts that add up over records, so that any resample of a corpus is a sum. It cuts no text.

The values are those of sacrebleu 2 (`BLEU(tokenize="none", effective_order=True)` over units joined by spaces, and
`CHRF()`) divided by 100; what is ours is that the counts of each record are kept, which its interface does not give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from flagai.measure.rouge import Units, ngrams

BLEU_ORDER: Final = 4
CHRF_ORDER: Final = 6
_BETA_SQUARED: Final = 4.0  # chrF2: recall counts twice as much as precision


def bleu_counts(references: Sequence[Units], predicted: Units) -> np.ndarray:
    """What BLEU adds up of one record, [2 + 4 + 4]: lengths of answer and nearest reference, hits and n-grams by order.

    Of several references an n-gram may be hit as often as the one that has it most often has it; the nearest length is
    the shorter of two that are equally near (Papineni et al. 2002).
    """
    size = len(predicted)
    nearest = min((len(reference) for reference in references), key=lambda length: (abs(length - size), length))
    hits, total = [], []
    for n in range(1, BLEU_ORDER + 1):
        found, allowed = ngrams(predicted, n), Counter[tuple[str, ...]]()
        for reference in references:
            allowed |= ngrams(reference, n)
        hits.append(sum((found & allowed).values()))
        total.append(sum(found.values()))
    return np.array([size, nearest, *hits, *total], dtype=np.float64)


def bleu(counts: np.ndarray) -> np.ndarray:
    """BLEU in [0, 1] of summed counts [..., 10] → [...].

    Geometric mean of the precisions of 1 to 4 units times the brevity penalty. An order without a hit counts as 1 / (2ᵏ
    · n-grams), k its number among such orders (NIST; Chen and Cherry 2014, method 3); an order that no answer is long
    enough for is left out. 0 without any hit.
    """
    size, nearest = counts[..., 0], counts[..., 1]
    hits, total = counts[..., 2 : 2 + BLEU_ORDER], counts[..., 2 + BLEU_ORDER :]
    missing = (hits == 0) & (total > 0)
    smoothed = np.where(missing, 0.5 ** np.cumsum(missing, axis=-1), hits)
    logs = np.log(np.divide(smoothed, total, out=np.ones_like(total), where=total > 0))
    orders = (total > 0).sum(axis=-1)
    mean = np.divide(logs.sum(axis=-1), orders, out=np.zeros_like(size), where=orders > 0)
    short = np.divide(nearest, size, out=np.ones_like(size), where=size > 0)
    penalty = np.minimum(0.0, 1.0 - short)
    return np.where(hits.any(axis=-1), np.exp(mean + penalty), 0.0)


def chrf_counts(references: Sequence[str], predicted: str) -> np.ndarray:
    """What chrF adds up of one record, [6 · 3]: n-grams of answer and reference and hits for each order.

    White space is left out. Of several references the one with the best chrF of its own is taken, the first of equals.
    An answer's n-grams of an order that the reference is too short for do not count.
    """
    found = _character_ngrams(predicted)
    rows = [_pair_counts(_character_ngrams(reference), found) for reference in references]
    return max(rows, key=lambda row: float(chrf(row)))


def chrf(counts: np.ndarray) -> np.ndarray:
    """chrF2 in [0, 1] of summed counts [..., 18] → [...] (Popović 2015).

    F2 of the mean precision and the mean recall over the orders 1 to 6 that both answer and reference have.
    """
    table = counts.reshape(*counts.shape[:-1], CHRF_ORDER, 3)
    found, wanted, hits = table[..., 0], table[..., 1], table[..., 2]
    both = (found > 0) & (wanted > 0)
    orders = np.maximum(both.sum(axis=-1), 1)
    precision = np.divide(hits, found, out=np.zeros_like(hits), where=both).sum(axis=-1) / orders
    recall = np.divide(hits, wanted, out=np.zeros_like(hits), where=both).sum(axis=-1) / orders
    bottom = _BETA_SQUARED * precision + recall
    top = (1 + _BETA_SQUARED) * precision * recall
    return np.divide(top, bottom, out=np.zeros_like(bottom), where=bottom > 0)


def _character_ngrams(text: str) -> list[Counter[str]]:
    packed = "".join(text.split())
    return [Counter(packed[at : at + n] for at in range(len(packed) - n + 1)) for n in range(1, CHRF_ORDER + 1)]


def _pair_counts(wanted: list[Counter[str]], found: list[Counter[str]]) -> np.ndarray:
    rows = [
        [sum(f.values()) if w else 0, sum(w.values()), sum((w & f).values())]
        for w, f in zip(wanted, found, strict=True)
    ]
    return np.array(rows, dtype=np.float64).reshape(-1)
