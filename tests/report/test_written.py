"""The report of written answers: what is kept of them, and how it is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from flagai.errors import DataError
from flagai.measure.generation import SEGMENTATION
from flagai.report import model_card, render
from flagai.report.bars import bar_chart
from flagai.report.samples import MOST_SAMPLES, writing_part

Make = Callable[..., dict[str, Any]]


def part(count: int = 40) -> dict[str, Any]:
    sources = [f"第{i}篇论文的摘要，" + "讲了许多事情。" * (i % 7) for i in range(count)]
    gold = [[f"论文{i}", f"第{i}篇"] if i % 2 else f"论文{i}" for i in range(count)]
    predicted = [f"论文{i}" if i % 3 else "" for i in range(count)]
    return writing_part(sources, gold, predicted, [f"test.jsonl:{i + 1}" for i in range(count)])


def test_samples_are_spread_over_the_split_with_their_own_scores() -> None:
    found = part(100)
    places = [int(row["where"].partition(":")[2]) for row in found["samples"]]
    assert len(places) == MOST_SAMPLES and places[0] == 1 and places[-1] > 90
    assert {b - a for a, b in pairwise(places)} <= {4, 5}
    for row in found["samples"]:
        assert row["scores"]["rouge_1"] == (1.0 if row["predicted"] else 0.0)
    assert found["segmentation"] == SEGMENTATION
    assert found["empty"] == 34
    json.dumps(found)


def test_few_records_are_all_shown_and_need_no_place() -> None:
    found = writing_part(["a b"], ["c d"], ["c e"])
    assert [row["predicted"] for row in found["samples"]] == ["c e"]
    assert found["samples"][0]["references"] == ["c d"]
    with pytest.raises(DataError, match="no records"):
        writing_part([], [], [])


@pytest.mark.parametrize("count", [1, 40, 500])
def test_every_length_is_in_one_bin(count: int) -> None:
    for histogram in part(count)["lengths"].values():
        edges = histogram["edges"]
        assert edges[0] == 0 and len({b - a for a, b in pairwise(edges)}) == 1
        for row in histogram["counts"].values():
            assert len(row) == len(edges) - 1 and sum(row) == count


def test_the_longest_text_is_in_the_last_bin() -> None:
    found = writing_part(["字" * 48, "字"], ["好", "好"], ["好" * 9, ""])
    assert found["lengths"]["source"]["counts"]["source"][-1] == 1
    assert found["lengths"]["source"]["edges"][-1] > 48 >= found["lengths"]["source"]["edges"][-2]
    assert found["lengths"]["answer"]["counts"]["predicted"][0] == 1, "an empty answer has length 0"


def test_the_page_shows_answers_beside_references(full_report: Make) -> None:
    report = full_report() | {"writing": part(), "metrics": {"test": {"rouge_l": {"value": 0.41}, "bleu": 0.2}}}
    report["data"]["audit"]["splits"]["test"]["tokens"] = {"records_truncated": 77}
    page = render(report)
    assert 'id="samples"' in page and "第0篇论文的摘要" in page and "41.0 %" in page
    assert page.count('class="answer"') == MOST_SAMPLES
    assert SEGMENTATION in page
    assert "77 of 1,540 sources (5.0 %, test)" in page
    assert "14 written answers are empty" in page
    assert page.count("<rect") >= 12


def test_a_report_without_writing_has_no_such_section(full_report: Make) -> None:
    page = render(full_report() | {"writing": None})
    assert 'id="samples"' not in page


def test_hostile_answers_are_text(full_report: Make) -> None:
    bad = "<script>alert(1)</script>\"'\x00"
    report = full_report() | {"writing": writing_part([bad], [[bad, bad]], [bad], [bad])}
    assert "<script>alert" not in render(report)


def test_every_missing_piece_is_left_out(full_report: Make) -> None:
    for piece in ({"samples": [{}]}, {"lengths": {"answer": {}}}, {"segmentation": None}, {"empty": None}):
        render(full_report() | {"writing": piece})


def test_the_card_says_how_texts_were_compared(full_report: Make) -> None:
    card = model_card(full_report() | {"writing": part(), "task": "title-generation"})
    assert "NFKC" in card and "14 of the written answers were empty" in card
    assert 'pipeline_tag: "summarization"' in card or "pipeline_tag: summarization" in card


def test_bars_are_as_high_as_their_counts() -> None:
    picture = bar_chart("Lengths", [0, 10, 20], {"one": [4, 2], "two": [0, 1]}, x_name="units")
    heights = [float(piece.split('"')[0]) for piece in picture.split(' height="')[1:]]
    assert len(heights) == 4
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2) and heights[2] == 0
    assert heights[3] == pytest.approx(heights[1] / 2, abs=0.2)


@pytest.mark.parametrize(
    ("edges", "counts"),
    [([], {}), ([0], {"a": []}), ([0, 1], {"a": [0]}), ([0, 1], {"a": [1, 2]}), ([1, 1], {"a": [1]})],
)
def test_no_bars_for_what_is_none(edges: list[float], counts: dict[str, list[float]]) -> None:
    assert bar_chart("Lengths", edges, counts, x_name="units") == ""
