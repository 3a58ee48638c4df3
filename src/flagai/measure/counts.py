"""True and false positives of every record and class: what the F1 family is made of. It knows no label names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Average = Literal["micro", "macro", "weighted"]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Per record (rows, [N]) or per record and class ([N, C]): how often right, too much, missed.

    Adding rows up gives the counts of any subset or resample, which is why the bootstrap is fast.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray

    @classmethod
    def of_single(cls, gold: np.ndarray, predicted: np.ndarray, num_classes: int) -> Counts:
        """From class ids [N]: one gold and one predicted class a record."""
        return cls.of_multi(_one_hot(gold, num_classes), _one_hot(predicted, num_classes))

    @classmethod
    def of_multi(cls, gold: np.ndarray, predicted: np.ndarray) -> Counts:
        """From booleans [N, C]: any number of classes a record."""
        return cls(tp=gold & predicted, fp=~gold & predicted, fn=gold & ~predicted)


def precision_recall_f1(
    tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, average: Average
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 from summed counts [..., C] (the last axis holds the classes).

    micro: all classes added up first. macro: mean over the classes that occur in gold or predicted, as scikit-learn
    does when it is given no label list. weighted: mean weighted by the number of gold rows. 0/0 counts as 0.
    """
    tp, fp, fn = (np.asarray(a, dtype=np.float64) for a in (tp, fp, fn))
    if average == "micro":
        tp, fp, fn = (a.sum(axis=-1, keepdims=True) for a in (tp, fp, fn))
    present = (tp + fp + fn) > 0
    weight = (tp + fn) if average == "weighted" else present.astype(np.float64)
    scores = (_ratio(tp, tp + fp), _ratio(tp, tp + fn), _ratio(2 * tp, 2 * tp + fp + fn))
    total = weight.sum(axis=-1)
    precision, recall, f1 = (_ratio((score * weight).sum(axis=-1), total) for score in scores)
    return precision, recall, f1


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=bottom != 0)


def _one_hot(ids: np.ndarray, num_classes: int) -> np.ndarray:
    return np.asarray(ids)[:, None] == np.arange(num_classes)
