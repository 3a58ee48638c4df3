from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from flagai.errors import OutputError
from flagai.report import Report, render, save

Make = Callable[..., dict[str, Any]]

VOID = {"meta", "link", "br", "wbr"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\x00\ud800"


class Page(HTMLParser):
    """Elements, their attributes and texts; fails on tags that do not close in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"script", "style"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        return [
            a for t, a in self.elements if t == tag and all(a.get(k.rstrip("_")) == v for k, v in attributes.items())
        ]


def sections(page: Page) -> list[str]:
    return [attributes["id"] for attributes in page.all("section")]


def test_a_full_report_has_every_section_and_its_numbers(full_report: Make) -> None:
    page = Page(render(full_report()))
    assert sections(page) == ["results", "curves", "labels", "confusion", "errors", "data", "speed", "repeat"]
    assert [a["href"][1:] for a in page.all("a")] == sections(page)
    for words in (
        "80.0 %", "95 % interval 74.0–86.0 %", "on test, 1,540 records", "logistic regression 70.0 %",
        "flagai train run.yaml train.seed=7", "ab" * 32, "5 min 41 s", "97.2 %", "1.00 GiB", "22.7 M",
        'scheduler: "no"', "confidence 97 %", "test.csv:9",
    ):  # fmt: skip
        assert words in page.text, words


def test_the_page_asks_nothing_of_any_network(full_report: Make) -> None:
    source = render(full_report(77))
    page = Page(source)
    for _, attributes in page.elements:
        assert "src" not in attributes
        assert attributes.get("href", "#")[0] == "#" or attributes["href"] == "data:,"
    assert "url(" not in source
    assert "@import" not in source
    assert "http" not in source.replace("http-equiv", "")


def test_the_policy_allows_our_script_and_no_other(full_report: Make) -> None:
    source = render(full_report())
    (policy,) = (m["content"] for m in Page(source).all("meta", **{"http-equiv": "Content-Security-Policy"}))
    (script,) = re.findall(r"<script>(.*?)</script>", source, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def _poisoned(value: Any) -> Any:
    """The same report with every text, and every key that comes from a user, hostile."""
    if isinstance(value, dict):
        names = {"label_0", "label_1", "label_2", "seed", "torch"}
        return {(HOSTILE + k if k in names else k): _poisoned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_poisoned(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


@pytest.mark.parametrize("num_labels", [3, 40])
def test_hostile_text_stays_text(num_labels: int, full_report: Make) -> None:
    report = full_report(num_labels)
    report["errors"] += [
        {"text": HOSTILE, "gold": [{"start": 0, "end": 8, "label": HOSTILE}], "predicted": [], "where": HOSTILE},
        {"text": HOSTILE * 100, "text_pair": HOSTILE, "gold": [HOSTILE], "predicted": [], "where": HOSTILE},
    ]
    clean, page = Page(render(report)), Page(render(_poisoned(report)))
    assert len(page.all("script")) == len(clean.all("script")) == 1
    assert page.all("img") == []
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "<script>alert(1)</script>" in page.text
    render(_poisoned(report)).encode("utf-8")


@pytest.mark.parametrize("missing", sorted(Report.__annotations__))
@pytest.mark.parametrize("empty", [False, True])
def test_any_part_may_be_missing_or_null(missing: str, empty: bool, full_report: Make) -> None:
    report = full_report()
    if empty:
        report[missing] = None
    else:
        report.pop(missing, None)
    page = Page(render(report))
    assert len(sections(page)) >= 7


def test_only_a_title_still_makes_a_page() -> None:
    page = Page(render({"title": "Empty"}))
    assert sections(page) == []
    assert "nothing to show" in page.text


def test_many_labels_show_the_confused_pairs_and_a_compact_matrix(full_report: Make) -> None:
    page = Page(render(full_report(77)))
    assert len(page.all("svg", class_="heat compact")) == 1
    assert len(page.all("rect", class_="right")) == len(page.all("rect", class_="wrong")) == 77
    assert "Most frequent confusions" in page.text
    assert "The 12 weakest of 77 labels." in page.text
    assert len(render(full_report(77))) < 200_000


def test_a_perfect_matrix_has_no_confusions_and_a_wrong_one_names_only_its_errors(full_report: Make) -> None:
    report = full_report()
    report["confusion"] = {"labels": ["a", "b", "c"], "matrix": [[9, 0, 1], [0, 5, 0], [3, 0, 3]]}
    source = render(report)
    pairs = re.findall(r"<td>(\w)</td><td>(\w)</td><td class=\"n\">(\d+)</td><td class=\"n\">(\d+) %", source)
    assert pairs == [("c", "a", "3", "50"), ("a", "c", "1", "10")]
    report["confusion"]["matrix"] = [[9, 0, 0], [0, 5, 0], [0, 0, 3]]
    assert "No confusions" in Page(render(report)).text


def test_few_labels_show_the_whole_matrix_with_counts(full_report: Make) -> None:
    page = Page(render(full_report(5)))
    assert len(page.all("svg", class_="heat")) == 1
    assert len(page.all("text", class_="number")) + len(page.all("text", class_="number on")) == 10


def test_a_single_record_split_and_constant_curves_draw(full_report: Make) -> None:
    report = full_report()
    report["curves"] = {"train": [{"step": 1, "loss": 0.0}], "eval": [{"step": 1, "accuracy": 1.0}]}
    report["metrics"] = {"test": {"accuracy": {"value": 1.0, "low": 1.0, "high": 1.0}}}
    page = Page(render(report))
    assert not any("nan" in value for _, attributes in page.elements for value in attributes.values())
    assert len(page.all("figure")) == 2


def test_numbers_that_are_none_or_not_finite_are_left_out(full_report: Make) -> None:
    report = full_report()
    report["curves"]["train"][3]["loss"] = float("nan")
    report["curves"]["eval"][0]["accuracy"] = None
    report["metrics"]["test"]["accuracy"] = {"value": 0.5, "low": None, "high": float("inf")}
    page = Page(render(report))
    drawn = " ".join(a["points"] for a in page.all("polyline"))
    assert drawn
    assert not re.search("nan|inf|None", drawn)
    assert "50.0 %" in page.text


def test_coordinates_of_a_curve(full_report: Make) -> None:
    report = full_report()
    report["curves"] = {"train": [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 0.0}], "eval": []}
    (line,) = Page(render(report)).all("polyline")
    first, last = ([float(n) for n in pair.split(",")] for pair in line["points"].split())
    # The axis runs from step 0 to 20, so step 10 stands midway between its ends, 50 and 408; loss 0 is on the axis.
    assert first[0] == pytest.approx(229)
    assert last == pytest.approx([408, 204])
    assert 10 < first[1] < 30


def test_chinese_headings(full_report: Make) -> None:
    source = render(full_report() | {"language": "zh"})
    assert 'lang="zh-CN"' in source
    assert "准确率" in source
    assert "Worth knowing" not in source


def test_the_audit_names_leaks_losses_and_worst_records(full_report: Make) -> None:
    page = Page(render(full_report()))
    assert "3 records of test (0.2 %) also stand in train." in page.text
    assert "3 evaluation records also stand in the training data" in page.text
    assert "2.0 % of the tokens lie beyond max_length" in page.text
    assert "4 records lose a part of their label" in page.text
    assert "None found: records without text." in page.text
    assert "Leaks between splits" in page.text
    assert "Label counts" in page.text
    assert "train.csv:7" in page.text


def test_notes_appear_only_with_a_reason(full_report: Make) -> None:
    report = full_report()
    report["data"]["audit"] = {}
    assert Page(render(report)).all("aside") == []
    report["status"] = "interrupted"
    report["per_label"][1]["f1"] = 0.0
    report["data"]["splits"]["test"]["records"] = 90
    report["baseline"]["metrics"]["accuracy"] = 0.75
    text = Page(render(report)).text
    assert "The run is “interrupted”" in text
    assert "One label is never recognised: label_1." in text
    assert "Test has only 90 records" in text
    assert "The baseline (75.0 %) lies inside the interval" in text


def test_a_baseline_far_below_does_not_stretch_the_scale(full_report: Make) -> None:
    report = full_report()
    report["baseline"] = {"name": "majority", "metrics": {"accuracy": 0.01}}
    page = Page(render(report))
    assert "The lines run from 60 % to 100 %." in page.text
    assert page.all("line", class_="base") == []
    assert "majority 1.0 %" in page.text


def test_entities_are_marked_as_right_missed_or_spurious(full_report: Make) -> None:
    report = full_report()
    gold = [{"start": 0, "end": 4, "label": "ORG"}, {"start": 0, "end": 2, "label": "LOC"}]
    predicted = [{"start": 0, "end": 4, "label": "ORG"}, {"start": 5, "end": 6, "label": "PER"}]
    report["errors"] = [{"text": "北京大学😀李", "gold": gold, "predicted": predicted, "score": 0.9, "where": "x:1"}]
    source = render(report)
    assert (
        '<mark class="right"><mark class="missed">北京<small>LOC</small></mark>大学<small>ORG</small></mark>😀李'
        in source
    )
    assert '😀<mark class="spurious">李<small>PER</small></mark>' in source


def test_long_texts_are_folded_and_very_long_ones_cut(full_report: Make) -> None:
    report = full_report()
    report["errors"] = [
        {"text": "好" * 300, "gold": "a", "predicted": "b"},
        {"text": "x" * 9000, "gold": "a", "predicted": "b"},
    ]
    page = Page(render(report))
    assert len(page.all("details", class_="long")) == 2
    assert "and 3,000 more characters" in page.text
    assert "好" * 300 in page.text


def test_regression_errors_say_how_far_off(full_report: Make) -> None:
    report = full_report()
    report["errors"] = [{"text": "a", "text_pair": "b", "gold": 4.0, "predicted": 1.5, "score": 2.5}]
    text = Page(render(report)).text
    assert "off by 2.50" in text
    assert "confidence" not in text


def test_save_writes_the_page_and_the_same_dict(tmp_path: Path, full_report: Make) -> None:
    report = full_report()
    report["errors"][0]["text"] = "half an emoji: \ud83d"
    report["curves"]["train"][0]["loss"] = float("nan")
    page = save(report, tmp_path)
    assert page.read_text(encoding="utf-8") == render(report)
    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert stored["curves"]["train"][0]["loss"] is None
    assert stored["errors"] == report["errors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, full_report: Make) -> None:
    with pytest.raises(OutputError, match=r"report\.json"):
        save(full_report(), tmp_path / "nowhere")


def test_report_and_measure_load_no_heavy_library() -> None:
    code = (
        "import sys, flagai.report, flagai.measure.classification, flagai.measure.entities, flagai.measure.regression\n"
        "print([m for m in ('torch', 'sklearn', 'scipy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
