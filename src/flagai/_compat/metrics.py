"""The original's metrics of logits and labels, in percent as it gave them. Knows no task and no model."""

from __future__ import annotations

from typing import Any

import torch

from flagai._compat._adapters.later import PROMPTS, later
from flagai.errors import unknown_name
from flagai.measure.classification import classification_metrics

__getattr__ = later(__name__, ["multirc_em", "qa_exact_match", "qa_f1", "qa_em"], PROMPTS)

_ROUGE = {"rouge-1": "rouge_1", "rouge-2": "rouge_2", "rouge-l": "rouge_l"}

_IGNORED = -100


def accuracy_metric(predictions: Any, labels: Any, meta: Any = None, **_: Any) -> float:
    """Percent of rows (or tokens) whose highest logit is that of the label; labels of -100 do not count.

    One logit a row is a yes or no: above 0 is class 1.
    """
    predicted, wanted = _flat(predictions, labels)
    return 100.0 * float((predicted == wanted).double().mean()) if len(wanted) else 0.0


def f1_metric(predictions: Any, labels: Any, meta: Any = None, **_: Any) -> float:
    """F1 of class 1 of two classes, in percent."""
    predicted, wanted = _flat(predictions, labels)
    both = int(((predicted == 1) & (wanted == 1)).sum())
    total = int((predicted == 1).sum() + (wanted == 1).sum())
    return 200.0 * both / total if total else 0.0


def f1_macro_metric(predictions: Any, labels: Any, meta: Any = None, **_: Any) -> float:
    """Mean F1 over the classes that occur, in percent."""
    predicted, wanted = (list(map(str, part.tolist())) for part in _flat(predictions, labels))
    return 100.0 * classification_metrics(wanted, predicted, sorted({*wanted, *predicted}))["f1_macro"]


def bleu_metric(predictions: Any, labels: Any, meta: Any = None, tokenizer: Any = None) -> float:
    """BLEU of the whole set, in percent, of texts that `tokenizer` decodes from ids.

    Texts are segmented as everywhere in flagai, Chinese too; the original takes a Chinese sentence for one word.
    """
    return 100.0 * _written(predictions, labels, tokenizer)["bleu"]


def rouge_metric(
    predictions: Any, labels: Any, meta: Any = None, tokenizer: Any = None, metric: str = "rouge-1"
) -> float:
    """Mean ROUGE F1 in percent: "rouge-1", "rouge-2" or "rouge-l"; the original finds nothing in Chinese texts."""
    if metric not in _ROUGE:
        raise unknown_name("metric", metric, _ROUGE, where="rouge_metric")
    return 100.0 * _written(predictions, labels, tokenizer)[_ROUGE[metric]]


def _written(predictions: Any, labels: Any, tokenizer: Any) -> dict[str, float]:
    from flagai.measure.generation import generation_metrics

    gold, found = (
        [tokenizer.DecodeIds(torch.as_tensor(row).tolist()) for row in part] for part in (labels, predictions)
    )
    return generation_metrics(gold, found)


def _flat(predictions: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
    logits, wanted = torch.as_tensor(predictions), torch.as_tensor(labels)
    single = logits.ndim == wanted.ndim or logits.shape[-1] == 1
    predicted = (logits.reshape(wanted.shape) > 0).long() if single else logits.argmax(dim=-1)
    keep = wanted != _IGNORED
    return predicted[keep], wanted[keep]
