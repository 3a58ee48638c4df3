"""Metrics of written text: against recorded figures of public tools, worked examples, and slow twins."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from flagai.errors import DataError
from flagai.measure.baselines import best_untrained, first_sentence, first_units, untrained_answers
from flagai.measure.generation import (
    METRIC_NAMES,
    distinct,
    generation_intervals,
    generation_metrics,
    record_scores,
    units,
)
from flagai.measure.intervals import bootstrap
from flagai.measure.overlap import bleu, bleu_counts, chrf, chrf_counts
from flagai.measure.rouge import lcs_length, rouge_l, rouge_n

RECORDED = json.loads((Path(__file__).parents[1] / "fixtures/measure/generation_scores.json").read_text("utf-8"))
CORPORA = RECORDED["corpora"]


@pytest.mark.parametrize("name", CORPORA)
def test_scores_are_those_of_public_tools(name: str) -> None:
    """ROUGE of rouge-score and rouge-chinese, BLEU and chrF of sacrebleu (with its own Chinese and English cutting)."""
    corpus = CORPORA[name]
    found = generation_metrics(corpus["gold"], corpus["predicted"])
    for metric, value in corpus["expected"].items():
        # rouge-chinese adds 1e-8 to a denominator.
        assert found[metric] == pytest.approx(value, abs=2e-8), metric


@pytest.mark.parametrize(
    "text",
    [
        "基于深度学习的图像识别研究",
        "好",
        "a method for titles",
        "Word",
        "用BERT做NER，2024年",
        "3.5％",
        "？！",
        "ＧＰＵ训练",
    ],
)
def test_equal_texts_score_one(text: str) -> None:
    found = generation_metrics([text, text], [text, text])
    assert {name: value for name, value in found.items() if not name.startswith("distinct")} == dict.fromkeys(
        [name for name in METRIC_NAMES if not name.startswith("distinct")], pytest.approx(1.0)
    )


def test_width_case_and_spaces_make_no_difference_where_they_should_not() -> None:
    found = generation_metrics(["基于GPU的训练，一种方法"], ["基于ｇｐｕ的训练,一种方法"])
    assert found["exact_match"] == found["rouge_l"] == 1.0
    assert generation_metrics(["Deep Learning"], ["deep  learning"])["exact_match"] == 1.0
    assert generation_metrics(["Deep Learning"], ["deep learning"])["bleu"] < 1.0, "case counts in BLEU"


def test_unlike_texts_score_nothing() -> None:
    found = generation_metrics(["春眠不觉晓"], ["deep learning"])
    assert {found[name] for name in ("rouge_1", "rouge_2", "rouge_l", "bleu", "chrf", "exact_match")} == {0.0}


def test_an_empty_answer_is_measured_and_scores_nothing() -> None:
    found = generation_metrics(["春眠不觉晓", "处处闻啼鸟"], ["", "处处闻啼鸟"])
    assert found["rouge_1"] == found["exact_match"] == 0.5
    assert 0 < found["bleu"] < 1 and all(math.isfinite(value) for value in found.values())


def test_punctuation_alone_differs_from_nothing_and_from_other_punctuation() -> None:
    assert units("。") == units(".") != units("!") and units("") == []
    assert generation_metrics(["。"], [""])["rouge_1"] == generation_metrics(["。"], ["!"])["rouge_1"] == 0.0


def test_rouge_by_hand() -> None:
    # 5 units against 4; 3 shared, 1 pair shared (a b), the longest common subsequence is a b d.
    wanted, found = list("abcde"), list("abdx")
    assert rouge_n(wanted, found, 1) == pytest.approx(2 * 3 / 9)
    assert rouge_n(wanted, found, 2) == pytest.approx(2 * 1 / 7)
    assert rouge_l(wanted, found) == pytest.approx(2 * 3 / 9)
    assert rouge_n(list("aa"), list("aaaa"), 1) == pytest.approx(2 * 2 / 6), "a hit counts once"


def cut(text: str) -> list[str]:
    return text.split()


def test_bleu_by_hand() -> None:
    # "the cat sat" in "the cat sat down": precisions 1, 1, 1, no run of four; exp(1 - 4/3) for being short.
    counts = bleu_counts([cut("the cat sat down")], cut("the cat sat"))
    assert counts.tolist() == [3, 4, 3, 2, 1, 0, 3, 2, 1, 0]
    assert float(bleu(counts)) == pytest.approx(math.exp(1 - 4 / 3))
    # Orders without a hit count 1/2ᵏ of one: precisions 1/2, 1/2 · 1.
    other = bleu_counts([cut("a b")], cut("a c"))
    assert float(bleu(other)) == pytest.approx(math.sqrt(0.5 * 0.5))


def test_the_nearest_reference_sets_the_length_and_each_may_be_hit() -> None:
    counts = bleu_counts([cut("a b c d e f"), cut("a b"), cut("x x")], cut("a a x x"))
    assert counts[:2].tolist() == [4, 2], "of 6 and 2, both two away, the shorter"
    assert counts[2] == 3, "a once, x twice"


def test_chrf_by_hand() -> None:
    # "ab" against "abc": orders 1 and 2; precision 1, recall (2/3 + 1/2) / 2.
    recall = (2 / 3 + 1 / 2) / 2
    assert float(chrf(chrf_counts(["abc"], "ab"))) == pytest.approx(5 * recall / (4 + recall))


def slow_lcs(a: str, b: str) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def test_the_longest_common_subsequence_is_that_of_the_table() -> None:
    draw = random.Random(3)
    for _ in range(300):
        a, b = ("".join(draw.choices("abcd", k=draw.randint(0, 70))) for _ in range(2))
        assert lcs_length(list(a), list(b)) == slow_lcs(a, b)


def test_distinct_counts_all_texts_together() -> None:
    assert distinct(["春天春天", "春天"], 1) == pytest.approx(2 / 6)
    assert distinct(["春天春天", "春天"], 2) == pytest.approx(2 / 4), "春天 three times, 天春 once"
    assert distinct(["", ""], 1) == 0.0


def test_the_best_reference_counts() -> None:
    several = generation_metrics([["没有关系", "春眠不觉晓"]], ["春眠不觉晓"])
    assert several["rouge_l"] == several["bleu"] == several["exact_match"] == 1.0
    assert record_scores([["没有关系", "春眠不觉晓"]], ["春眠不觉晓"])["rouge_2"].tolist() == [1.0]


def test_intervals_hold_the_values_and_equal_the_slow_bootstrap() -> None:
    corpus = CORPORA["english"]
    found = generation_intervals(corpus["gold"], corpus["predicted"], resamples=60, seed=5)
    metrics = generation_metrics(corpus["gold"], corpus["predicted"])
    assert set(found) == set(METRIC_NAMES) - {"distinct_1", "distinct_2"}

    def of_rows(name: str, rows: np.ndarray) -> float:
        gold, predicted = ([corpus[key][row] for row in rows] for key in ("gold", "predicted"))
        return generation_metrics(gold, predicted)[name]

    for name in ("rouge_l", "bleu", "chrf"):
        assert found[name].value == pytest.approx(metrics[name])
        slow = bootstrap(lambda rows, name=name: of_rows(name, rows), len(corpus["gold"]), resamples=60, seed=5)
        assert (found[name].low, found[name].high) == pytest.approx((slow.low, slow.high))
        assert found[name].low < found[name].value < found[name].high


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(DataError, match="2 gold and 1 predicted"):
        generation_metrics(["a", "b"], ["a"])
    with pytest.raises(DataError, match="no records"):
        generation_metrics([], [])
    with pytest.raises(DataError, match="record 1 has no reference"):
        generation_metrics(["a", []], ["a", "b"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("今天下雨。明天不下。", "今天下雨。"),
        ("“好。”他说。", "“好。”"),
        ("提出了方法.结果表明", "提出了方法."),
        ("It is 3.5 m. It works.", "It is 3.5 m."),
        ("Does it? Yes.", "Does it?"),
        ("no stop at all", "no stop at all"),
        ("  ", ""),
    ],
)
def test_the_first_sentence(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


def test_the_first_units_are_a_piece_of_the_text() -> None:
    assert first_units("“The cat”, it sat", 2) == "“The cat"
    assert first_units("深度学习，研究", 5) == "深度学习，研"
    assert first_units("short", 9) == "short" and first_units("", 3) == ""


def test_untrained_answers_and_the_best_of_them() -> None:
    sources = ["研究水质变化。结果很好。", "分析土壤盐分。方法很多。"]
    titles = ["研究水质", "分析土壤"]
    answers = untrained_answers(sources, titles)
    assert answers == {
        "copy of the source": sources,
        "first sentence": ["研究水质变化。", "分析土壤盐分。"],
        "first 4 characters": ["研究水质", "分析土壤"],
    }
    name, metrics = best_untrained(sources, titles, [[title] for title in titles])
    assert name == "first 4 characters" and metrics["rouge_l"] == 1.0
    assert list(untrained_answers(["a b c d"], ["x y", ["z z"]])) == [
        "copy of the source",
        "first sentence",
        "first 2 words",
    ]
    assert len(untrained_answers(sources, [])) == 2
