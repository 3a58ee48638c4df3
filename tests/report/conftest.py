"""A report with every part, small enough to read; tests change what they need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def _report(num_labels: int = 3) -> dict[str, Any]:
    labels = [f"label_{i}" for i in range(num_labels)]
    matrix = [
        [8 if i == j else 2 if j == (i + 1) % num_labels else 0 for j in range(num_labels)] for i in range(num_labels)
    ]
    score = {"value": 0.8, "low": 0.74, "high": 0.86}
    return {
        "version": 1,
        "title": "Intents",
        "task": "classification",
        "model": "all-MiniLM-L6-v2",
        "created": "2026-11-23T17:05:09+00:00",
        "command": "flagai train run.yaml train.seed=7",
        "status": "finished",
        "data": {
            "splits": {
                "train": {"file": "/somewhere/data/train.csv", "sha256": "ab" * 32, "records": 3804},
                "test": {"records": 1540},
            },
            "audit": _audit(),
        },
        "config": {
            "model": {"name": "all-MiniLM-L6-v2"},
            "train": {"seed": 7, "learning_rate": 2e-05, "scheduler": "no"},
        },
        "curves": {
            "train": [
                {"step": s, "loss": 4 / s, "learning_rate": 1e-5, "grad_norm": 1.0, "tokens_per_second": 900.0}
                for s in range(1, 100)
            ],
            "eval": [{"step": s, "loss": 1 / s, "accuracy": 1 - 10 / s, "f1_macro": None} for s in (40, 60, 80)],
        },
        "metrics": {"eval": {"accuracy": score}, "test": {"accuracy": dict(score), "f1_macro": {"value": 0.78}}},
        "best_metric": "accuracy",
        "baseline": {"name": "logistic regression", "metrics": {"accuracy": 0.7}},
        "confusion": {"labels": labels, "matrix": matrix},
        "per_label": [
            {"label": label, "precision": 0.8, "recall": 0.8, "f1": 0.8 - i / 1000, "support": 10}
            for i, label in enumerate(labels)
        ],
        "errors": [
            {"text": "Where is it?", "gold": "label_0", "predicted": "label_1", "score": 0.97, "where": "test.csv:9"}
        ],
        "speed": {"seconds": 341.0, "useful_token_share": 0.972, "peak_memory_bytes": 2**30},
        "model_info": {
            "parameters": 22_700_000,
            "trainable": 22_700_000,
            "source": "org/name",
            "licence": "Apache-2.0",
        },
        "environment": {"flagai": "0.1.0", "torch": "2.13.0", "device": "cpu"},
    }


def _audit() -> dict[str, Any]:
    tokens = {"read": 9, "total": 1000, "mean": 15.7, "p95": 34, "max": 98, "lost": 20, "targets_cut": 4}
    return {
        "splits": {
            "train": {
                "records": 3804,
                "tokens": tokens,
                "empty": 0,
                "duplicates": 12,
                "labels": {"label_0": 9, "label_1": 3},
            },
            "test": {"records": 1540, "tokens": None, "empty": 0, "duplicates": 0, "labels": {"label_0": 5}},
        },
        "leaks": [
            {"source": "train", "target": "test", "records": 3, "share": 0.002, "examples": [["a:1", "b:2", "Where?"]]},
            {"source": "eval", "target": "test", "records": 50, "share": 0.03, "examples": []},
        ],
        "worst": [{"split": "train", "where": "train.csv:7", "text": "", "reason": "empty text", "detail": ""}],
        "max_length": 128,
    }


@pytest.fixture
def full_report() -> Callable[..., dict[str, Any]]:
    """Makes a new report with so many labels."""
    return _report
