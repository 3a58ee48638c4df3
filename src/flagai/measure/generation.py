"""How near written texts are to references: ROUGE, BLEU, chrF, exact match, and how varied they are. Knows no model.

One segmentation serves Chinese, English and mixed text (`flagai.text.segment`: a Han or kana character is a unit, other
scripts go by word), so that equal texts score 1 in any language.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from flagai.errors import DataError
from flagai.measure.intervals import Interval, bootstrap_mean, bootstrap_sums
from flagai.measure.overlap import bleu, bleu_counts, chrf, chrf_counts
from flagai.measure.rouge import Units, ngrams, rouge_l, rouge_n
from flagai.measure.rows import check_lengths
from flagai.text import normalize, segment

References = Sequence[str | Sequence[str]]
"""a reference for each record, or several"""

METRIC_NAMES: Final = ("rouge_1", "rouge_2", "rouge_l", "bleu", "chrf", "distinct_1", "distinct_2", "exact_match")
SEGMENTATION: Final = (
    "NFKC; a Han or kana character is one unit, other scripts go by word; "
    "ROUGE and distinct-n without case and punctuation, BLEU and chrF with both"
)
"""how texts are cut, for reports: figures of another segmentation cannot be compared with these"""


def generation_metrics(gold: References, predicted: Sequence[str]) -> dict[str, float]:
    """`METRIC_NAMES` → value in [0, 1].

    rouge_1, rouge_2, rouge_l: mean over records of the F1 with the best reference. bleu, chrf: of the whole corpus
    (`measure/overlap.py`). distinct_1, distinct_2: different n-grams / all n-grams of all predicted texts (Li et al.
    2016); it needs no reference and falls as the corpus grows. exact_match: share of texts equal to a reference but for
    case, width and spaces. Raises DataError for lists of different length, no records, or a record with no reference.
    """
    golds = _checked(gold, predicted)
    rows = _record_rows(golds, predicted)
    return {
        **{name: float(values.mean()) for name, values in rows.items() if name != "exact_match"},
        "bleu": float(bleu(_bleu_table(golds, predicted).sum(axis=0))),
        "chrf": float(chrf(_chrf_table(golds, predicted).sum(axis=0))),
        "distinct_1": distinct(predicted, 1),
        "distinct_2": distinct(predicted, 2),
        "exact_match": float(rows["exact_match"].mean()),
    }


def generation_intervals(
    gold: References, predicted: Sequence[str], *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """The values of `generation_metrics` with their bootstrap intervals over records.

    distinct_1 and distinct_2 have none: a resample repeats records, which makes any text look less varied than it is.
    """
    golds = _checked(gold, predicted)
    options: dict[str, Any] = {"resamples": resamples, "seed": seed, "level": level}
    found = {name: bootstrap_mean(values, **options) for name, values in _record_rows(golds, predicted).items()}
    found["bleu"] = bootstrap_sums(bleu, _bleu_table(golds, predicted), **options)
    found["chrf"] = bootstrap_sums(chrf, _chrf_table(golds, predicted), **options)
    return {name: found[name] for name in METRIC_NAMES if name in found}


def record_scores(gold: References, predicted: Sequence[str]) -> dict[str, np.ndarray]:
    """rouge_1, rouge_2, rouge_l and exact_match of each record, [N] each: for samples and paired comparisons.

    Raises DataError as `generation_metrics`.
    """
    return _record_rows(_checked(gold, predicted), predicted)


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams / all n-grams of all texts together, in [0, 1]; 0 where there are none."""
    counts = [ngrams(units(text), n) for text in texts]
    total = sum(sum(count.values()) for count in counts)
    return len(set().union(*counts)) / total if total else 0.0


def units(text: str) -> Units:
    """What ROUGE and distinct-n count: the segments of the normalised text without punctuation.

    A text of nothing but punctuation keeps it, so that it still equals itself and no other.
    """
    return segment(normalize(text, punctuation="drop")) or segment(normalize(text))


def _cased(text: str) -> str:
    return normalize(text, casefold=False)


def _record_rows(golds: Sequence[Sequence[str]], predicted: Sequence[str]) -> dict[str, np.ndarray]:
    rows = [_scores_of(references, text) for references, text in zip(golds, predicted, strict=True)]
    names = ("rouge_1", "rouge_2", "rouge_l", "exact_match")
    return {name: np.array([row[at] for row in rows]) for at, name in enumerate(names)}


def _scores_of(references: Sequence[str], text: str) -> tuple[float, float, float, float]:
    found, wanted = units(text), [units(reference) for reference in references]
    plain = normalize(text)
    return (
        max(rouge_n(reference, found, 1) for reference in wanted),
        max(rouge_n(reference, found, 2) for reference in wanted),
        max(rouge_l(reference, found) for reference in wanted),
        float(any(normalize(reference) == plain for reference in references)),
    )


def _bleu_table(golds: Sequence[Sequence[str]], predicted: Sequence[str]) -> np.ndarray:
    """The counts of each record, [N, 10]."""
    return np.stack(
        [
            bleu_counts([segment(_cased(reference)) for reference in references], segment(_cased(text)))
            for references, text in zip(golds, predicted, strict=True)
        ]
    )


def _chrf_table(golds: Sequence[Sequence[str]], predicted: Sequence[str]) -> np.ndarray:
    """The counts of each record, [N, 18]."""
    return np.stack(
        [
            chrf_counts([_cased(reference) for reference in references], _cased(text))
            for references, text in zip(golds, predicted, strict=True)
        ]
    )


def _checked(gold: References, predicted: Sequence[str]) -> list[list[str]]:
    check_lengths(gold, predicted)
    golds = [[entry] if isinstance(entry, str) else list(entry) for entry in gold]
    for number, references in enumerate(golds):
        if not references:
            raise DataError(f"record {number} has no reference", expected="at least one text to compare with")
    return golds
