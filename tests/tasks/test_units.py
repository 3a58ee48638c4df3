"""Units against the text: what they cover, where they begin, and what a window's border does to them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from flagai.tasks.encoding import TextEncoder
from flagai.tasks.units import Units, joins, owned_by, units_of

KINDS = ["wordpiece", "byte-bpe", "unigram"]
CUTS = {
    "Angela visited Zürich and New York-based ACME.": "Angela|visited|Zürich|and|New|York|-|based|ACME|.",
    "6月15日，河南省ＡＢＣ公司。": "6|月|15|日|，|河|南|省|ＡＢＣ|公|司|。",
    "I ❤️ Paris 🗼 and 👨‍👩‍👧 in 𠮷野家!": "I|❤️|Paris|🗼|and|👨‍👩‍👧|in|𠮷|野|家|!",
    "Cafe\u0301\u3000Müller": "Cafe\u0301|Müller",
    "  a\t\tb\n": "a|b",
    "": "",
    " \u3000 ": "",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", CUTS)
def test_units_are_words_characters_and_whole_emoji(tokenizer_of, kind: str, text: str) -> None:
    window = TextEncoder(tokenizer_of(kind), max_length=512)([text])[0].windows[0]
    units = units_of(text, window.offsets)
    assert "|".join(text[start:end] for start, end in units.spans) == CUTS[text]
    assert len(units.first) == len(units.spans)
    assert all(a < b for a, b in pairwise(units.first))
    for token, (start, _) in zip(units.first, units.spans, strict=True):
        low, high = window.offsets[token]
        assert low <= start < high


def test_the_space_before_a_word_is_not_part_of_it() -> None:
    units = units_of("a Paris", [(0, 0), (0, 1), (1, 4), (4, 7), (0, 0)])
    assert units == Units([1, 2], [(0, 1), (2, 7)])


def test_a_character_in_several_tokens_is_one_unit() -> None:
    assert units_of("😀京", [(0, 1), (0, 1), (0, 1), (1, 2), (1, 2)]) == Units([0, 3], [(0, 1), (1, 2)])
    # A byte token over the border of two characters ties them together.
    assert units_of("河南", [(0, 1), (0, 2), (1, 2)]) == Units([0], [(0, 2)])


def test_marks_that_a_tokenizer_drops_stay_with_their_letter() -> None:
    assert units_of("cafe\u0301s x", [(0, 4), (5, 6), (7, 8)]).spans == [(0, 6), (7, 8)]


def test_a_word_that_the_window_cuts_is_no_unit_of_it() -> None:
    text = "one London two"
    offsets = [(0, 3), (4, 7), (7, 10), (11, 14)]
    assert units_of(text, offsets[:2]).spans == [(0, 3)]
    assert units_of(text, offsets[2:]).spans == [(11, 14)]
    assert units_of(text, offsets[1:2]).spans == []
    assert units_of("河南省", [(0, 1), (1, 2)]).spans == [(0, 1), (1, 2)]


def test_joins_within_words_and_graphemes_only() -> None:
    assert joins("a", "B") and joins("é", "5") and joins("а", "б") and joins("ก", "็") and joins("👍", "🏽")
    assert not (joins("a", "-") or joins("a", "河") or joins("河", "南") or joins("서", "울") or joins("ก", "ก"))


def test_find_takes_spans_on_unit_borders_only() -> None:
    units = Units([1, 2, 4], [(0, 3), (4, 7), (7, 8)])
    assert units.find(0, 3) == (0, 0)
    assert units.find(4, 8) == (1, 2)
    for start, end in [(0, 4), (1, 3), (3, 4), (4, 9), (8, 9)]:
        assert units.find(start, end) is None
    assert list(units.overlapping(2, 5)) == [0, 1]
    assert list(units.overlapping(3, 4)) == []


def test_windows_own_the_whole_text_between_them() -> None:
    text = "aa bb cc dd ee"
    windows = [Units([1, 2, 3], [(0, 2), (3, 5), (6, 8)]), Units([1, 2, 3], [(6, 8), (9, 11), (12, 13)])]
    assert owned_by(text, windows) == [(0, 7), (7, 14)]
    assert owned_by(text, [Units([], [])]) == [(0, 14)]
    assert owned_by(text, []) == []
