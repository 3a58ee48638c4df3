from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import yaml

from flagai.report import model_card

Make = Callable[..., dict[str, Any]]


def _front(card: str) -> dict:
    _, front, _ = card.split("---\n", 2)
    return yaml.safe_load(front)


def test_the_front_matter_is_yaml_that_the_hub_reads(full_report: Make) -> None:
    front = _front(model_card(full_report()))
    assert front == {
        "library_name": "transformers",
        "license": "apache-2.0",
        "base_model": "org/name",
        "pipeline_tag": "text-classification",
        "tags": ["flagai", "classification"],
        "metrics": ["accuracy", "f1_macro"],
    }


def test_hostile_names_do_not_leave_their_place(full_report: Make) -> None:
    evil = "x: [\n---\n<script>alert(1)</script> | `a` [b](c)"
    report: dict[str, Any] = {**full_report(), "title": evil, "task": evil, "model": evil}
    report["model_info"]["licence"] = evil
    card = model_card(report)
    assert _front(card)["license"] == evil.lower()
    assert "<script>" not in card.split("---\n", 2)[2]
    (title,) = (line for line in card.splitlines() if line.startswith("# "))
    assert "\\| \\`a\\` \\[b\\](c)" in title


def test_results_limits_and_data_are_told(full_report: Make) -> None:
    card = model_card(full_report())
    assert "| test | Accuracy | 80.0 % | 74.0–86.0 % |" in card
    assert "| logistic regression | Accuracy | 70.0 % | – |" in card
    assert "label\\_2 (80 %)" in card
    assert "label\\_0 was taken for label\\_1 2 times (20 % of its records)." in card
    assert "ab" * 32 in card


def test_folders_of_the_machine_stay_private(full_report: Make) -> None:
    report: dict[str, Any] = {**full_report(), "model": "/somewhere/models/mine"}
    report["model_info"]["source"] = "/somewhere/models/mine"
    card = model_card(report)
    assert "/somewhere" not in card
    assert "train.csv" in card
    assert "fine-tuned from mine with" in card
    assert "base_model" not in card


def test_a_bare_report_makes_a_card() -> None:
    card = model_card({"title": "Bare"})
    assert "# Bare" in card
    assert "## Results" not in card
    assert json.dumps(["flagai"]) in card
