"""A thousand draws for each constraint: every answer meets it, as an independent look at the text says."""

from __future__ import annotations

from typing import Any

import pytest
from tests.generate.constraints.worlds import faults, write

SEEDS = 1000
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["cat", "月"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
}
CASES: dict[str, tuple[str, int, Any]] = {
    "words": ("bytes", 24, {"must_contain": ["apple", "月"]}),
    "words, joined by spaces": ("words", 16, {"must_contain": ["cat", "tomorrow"]}),
    "part of a word": ("spaces", 14, {"must_contain": {"words": ["nan"], "whole": False}}),
    "forbidden words": ("bytes", 16, {"must_not_contain": ["e", "an", "月"]}),
    "choice": ("words", 12, {"one_of": ["yes", "no", "maybe tomorrow", "the cat", "月"]}),
    "pattern": ("bytes", 16, {"matches": r"(19|20)\d{2}-[01]\d(:[^aeiou月]{2,4})?"}),
    "schema": ("bytes", 64, {"json_schema": PERSON}),
    "exact length": ("spaces", 16, {"length": [12, 12]}),
    "length in words": ("words", 20, {"length": {"least": 3, "most": 5, "unit": "words"}}),
    "length in tokens": ("bytes", 20, {"length": {"least": 4, "most": 6, "unit": "tokens"}}),
    "five by four": ("han", 30, {"verse": "五言绝句"}),
    "seven by four, tones free, a rhyme": ("han", 40, {"verse": {"form": "七言绝句", "tones": False, "rhyme": "十唐"}}),
    "lines of one's own": ("han", 30, {"verse": {"form": [3, 5, 3], "tones": ["平平仄", "中中中中平", "仄平平"]}}),
    "verse with words": ("han", 30, {"verse": "五言绝句", "must_contain": ["明月"], "must_not_contain": ["山", "水"]}),
    "length and words": ("bytes", 24, {"must_contain": ["cat", "no"], "length": [8, 10], "must_not_contain": "s"}),
    "pattern and word": ("bytes", 24, {"matches": "[a-z ]+[.?]", "must_contain": ["mat"], "length": [9, 20]}),
    "choice and length": ("words", 12, {"one_of": ["yes", "no", "maybe tomorrow"], "length": [3, 20]}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_draw_meets_it(name: str) -> None:
    kind, most, constraints = CASES[name]
    draws = {"do_sample": True, "num_return_sequences": SEEDS, "seed": 0, "max_new_tokens": most}
    (answers,) = write(kind, constraints, **draws)
    assert len(answers) == SEEDS
    assert [fault for one in answers for fault in faults(kind, one.tokens, constraints)] == []
    assert len({one.tokens for one in answers}) > 1


@pytest.mark.parametrize("family", ["gpt2", "t5"])
@pytest.mark.parametrize("name", CASES)
def test_every_beam_meets_it(name: str, family: str) -> None:
    kind, most, constraints = CASES[name]
    found = write(
        kind,
        constraints,
        family=family,
        prompts=((5, 6, 7), (9, 8, 7)),
        num_beams=3,
        num_return_sequences=2,
        max_new_tokens=most,
    )
    assert [len(one) for one in found] == [2, 2]
    assert [fault for one in found for answer in one for fault in faults(kind, answer.tokens, constraints)] == []
