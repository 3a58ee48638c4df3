"""Normalisation, segmentation and language of mixed Chinese and English text."""

from __future__ import annotations

import random

import pytest

from flagai.text import is_cjk, is_punctuation, language, normalize, segment


@pytest.mark.parametrize(
    ("char", "expected"),
    [
        ("中", True),
        ("㐀", True),
        ("𠮷", True),  # astral, extension B
        ("〇", True),
        ("々", True),
        ("ひ", True),
        ("カ", True),
        ("ｶ", True),  # half-width katakana
        ("豈", True),  # compatibility ideograph
        ("。", False),
        ("，", False),
        ("Ａ", False),  # full-width Latin
        ("・", False),
        ("한", False),
        ("a", False),
        ("1", False),
        ("😀", False),
    ],
)
def test_is_cjk(char: str, expected: bool) -> None:
    assert is_cjk(char) is expected


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("ＡＢＣ１２３", "abc123"),
        ("你好，世界。", "你好,世界."),
        ("“引号”", '"引号"'),
        ("‘单’", "'单'"),
        ("【标题】《书》", "[标题]<书>"),
        ("a\u3000b\t\n c", "a b c"),
        ("  边  ", "边"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("ｶﾞ", "ガ"),
        ("é", "é"),
        ("—–−", "---"),
        ("…", "..."),
        ("ß", "SS"),
        ("㎏", "kg"),
    ],
)
def test_normalize_makes_variants_equal(left: str, right: str) -> None:
    assert normalize(left) == normalize(right)


def test_normalize_options() -> None:
    assert normalize("Apple，ＯＫ", casefold=False) == "Apple,OK"
    assert normalize("Don't， 走！", punctuation="drop") == "don t 走"
    assert normalize("“Ａ”。", punctuation="keep") == "“a”。"
    assert normalize("苹果") != normalize("蘋果")


def test_normalize_is_idempotent() -> None:
    alphabet = "aA1 中。，“”—ＡＢ\u3000\u200b😀é　ﾞ㎏ß"
    for seed in range(200):
        text = "".join(random.Random(seed).choices(alphabet, k=12))
        assert normalize(normalize(text)) == normalize(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我用Python写代码。", ["我", "用", "Python", "写", "代", "码", "。"]),
        ("don't stop-gap 1,000.5!", ["don't", "stop", "-", "gap", "1,000.5", "!"]),
        ("3.14。", ["3.14", "。"]),
        ("end. Next", ["end", ".", "Next"]),
        ("𠮷野家", ["𠮷", "野", "家"]),
        ("ＡＢ１２ 中", ["ＡＢ１２", "中"]),
        ("한국어 말", ["한국어", "말"]),
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
        ("हिन्दी", ["हिन्दी"]),
        ("👩‍💻ok👍🏽", ["👩‍💻", "ok", "👍🏽"]),
        ("??", ["?", "?"]),
        ("", []),
        (" \u3000 ", []),
    ],
)
def test_segment(text: str, expected: list[str]) -> None:
    assert segment(text) == expected


def test_segment_units() -> None:
    assert segment("我爱NLP！", "char") == ["我", "爱", "N", "L", "P", "！"]
    assert segment("我爱NLP！", "word") == ["我爱", "NLP", "！"]


@pytest.mark.parametrize("unit", ["auto", "char", "word"])
def test_segment_keeps_every_character_but_spaces(unit: str) -> None:
    alphabet = "aB1 中国。，'.,\u3000\u0301\u200d😀👍🏽한_-"
    for seed in range(300):
        text = "".join(random.Random(seed).choices(alphabet, k=15))
        assert "".join(segment(text, unit)) == "".join(text.split())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好，世界", "zh"),
        ("我用Python和TensorFlow写代码", "zh"),
        ("Where is my card? 中", "en"),
        ("東京に行きます", "ja"),
        ("안녕하세요", "ko"),
        ("Привет, мир", "ru"),
        ("مرحبا", "ar"),
        ("123 !? 😀", "und"),
        ("", "und"),
        ("ＦＵＬＬ ｗｉｄｔｈ", "en"),
    ],
)
def test_language(text: str, expected: str) -> None:
    assert language(text) == expected


def test_is_punctuation() -> None:
    assert [is_punctuation(char) for char in "。,$😀a中 1"] == [True, True, True, True, False, False, False, False]
