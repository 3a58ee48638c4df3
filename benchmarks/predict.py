"""Prediction speed beside transformers' pipeline and sentence-transformers: same weights, texts and threads.

    python benchmarks/predict.py --rounds 3 --save

Texts are the 1,540 test questions of the packaged Banking77 split. The classifiers share one folder; their labels are
compared as well as their speed. Loading is outside; tokenising and decoding are inside, for everyone.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import harness
from finetune import _rows

REPEATS = 3


def classify_flagai(arguments: argparse.Namespace, *, precision: str) -> dict[str, Any]:
    from flagai import Predictor
    from flagai.auto import task_of

    model, tokenizer, texts = _classifier()
    predictor = Predictor(model, tokenizer, task_of(model, tokenizer), precision=precision)
    predictor.predict(texts[:64])
    seconds = harness.best_of(lambda: predictor.predict(texts), REPEATS)
    return {"speed": len(texts) / seconds, "same_labels": _same([r.label for r in predictor.predict(texts)])}


def classify_pipeline(arguments: argparse.Namespace, *, batch_size: int | None = None) -> dict[str, Any]:
    from transformers import pipeline

    model, tokenizer, texts = _classifier()
    pipe: Any = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    options = {} if batch_size is None else {"batch_size": batch_size}
    pipe(texts[:64], **options)
    seconds = harness.best_of(lambda: pipe(texts, **options), REPEATS if batch_size else 1)
    return {"speed": len(texts) / seconds, "same_labels": _same([r["label"] for r in pipe(texts, **options)])}


def embed_flagai(arguments: argparse.Namespace, *, precision: str) -> dict[str, Any]:
    from flagai import AutoLoader, Predictor

    loader = AutoLoader("embedding", "all-MiniLM-L6-v2", offline=True)
    texts = [row["text"] for row in _rows("test")]
    predictor = Predictor(loader.get_model(), loader.get_tokenizer(), precision=precision)
    predictor.predict(texts[:64])
    seconds = harness.best_of(lambda: predictor.predict(texts), REPEATS)
    return {"speed": len(texts) / seconds, "least_cosine": _least_cosine([r.vector for r in predictor.predict(texts)])}


def embed_sentence_transformers(arguments: argparse.Namespace, *, bf16: bool) -> dict[str, Any]:
    import torch

    model, texts = _sentence_transformer(), [row["text"] for row in _rows("test")]
    if bf16:
        model.to(torch.bfloat16)
    model.encode(texts[:64])
    seconds = harness.best_of(lambda: model.encode(texts), REPEATS)
    return {"speed": len(texts) / seconds}


def _classifier() -> tuple[Any, Any, list[str]]:
    """MiniLM with a classifier set from the class means, so that labels are not all alike; the same for everyone."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from flagai.hub import resolve
    from flagai.models.tokenizers import build_tokenizer

    folder = resolve("all-MiniLM-L6-v2", offline=True)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=77)
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    with tempfile.TemporaryDirectory() as copy:
        model.save_pretrained(copy)
        model = AutoModelForSequenceClassification.from_pretrained(Path(copy)).eval()
    return model, build_tokenizer(folder), [row["text"] for row in _rows("test")]


def _same(labels: list[str]) -> float:
    """The share of labels equal to those of the plain model, text by text, fp32."""
    import torch

    model, tokenizer, texts = _classifier()
    equal = 0
    with torch.inference_mode():
        for text, label in list(zip(texts, labels, strict=True))[:200]:
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
            equal += model.config.id2label[int(logits.argmax())] == label
    return equal / min(200, len(texts))


def _sentence_transformer() -> Any:
    from sentence_transformers import SentenceTransformer

    from flagai.hub import resolve

    return SentenceTransformer(str(resolve("all-MiniLM-L6-v2", offline=True)), device="cpu")


def _least_cosine(vectors: list[tuple[float, ...]]) -> float:
    """The lowest cosine of our vectors with those of sentence-transformers in fp32, over the first 200 texts."""
    import numpy as np

    texts = [row["text"] for row in _rows("test")][:200]
    theirs = _sentence_transformer().encode(texts)
    ours = np.array(vectors[:200])
    return float(((theirs * ours).sum(1) / np.linalg.norm(theirs, axis=1) / np.linalg.norm(ours, axis=1)).min())


CONTENDERS: dict[str, harness.Contender] = {
    "classify: flagai bf16": lambda a: classify_flagai(a, precision="bf16"),
    "classify: flagai fp32": lambda a: classify_flagai(a, precision="fp32"),
    "classify: pipeline, defaults (fp32)": lambda a: classify_pipeline(a),
    "classify: pipeline, batch 32 (fp32)": lambda a: classify_pipeline(a, batch_size=32),
    "embed: flagai bf16": lambda a: embed_flagai(a, precision="bf16"),
    "embed: flagai fp32": lambda a: embed_flagai(a, precision="fp32"),
    "embed: sentence-transformers (fp32)": lambda a: embed_sentence_transformers(a, bf16=False),
    "embed: sentence-transformers bf16": lambda a: embed_sentence_transformers(a, bf16=True),
}
RATIOS = [
    (
        "classify, flagai bf16 / pipeline defaults (aim 4.5)",
        "classify: flagai bf16",
        "classify: pipeline, defaults (fp32)",
    ),
    ("classify, flagai fp32 / pipeline defaults", "classify: flagai fp32", "classify: pipeline, defaults (fp32)"),
    ("classify, flagai fp32 / pipeline batch 32", "classify: flagai fp32", "classify: pipeline, batch 32 (fp32)"),
    (
        "embed, flagai fp32 / sentence-transformers fp32 (aim 1.4)",
        "embed: flagai fp32",
        "embed: sentence-transformers (fp32)",
    ),
    (
        "embed, flagai bf16 / sentence-transformers bf16 (aim 1.4)",
        "embed: flagai bf16",
        "embed: sentence-transformers bf16",
    ),
    ("embed, flagai bf16 / sentence-transformers fp32", "embed: flagai bf16", "embed: sentence-transformers (fp32)"),
]

if __name__ == "__main__":
    harness.main(harness.parser(__doc__ or "").parse_args(), CONTENDERS, unit="texts/s", ratios=RATIOS, script=__file__)
