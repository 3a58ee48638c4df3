"""Constraints as plain data: what is read, what comes back, what is refused and how."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from flagai.errors import ConfigError, UnknownNameError
from flagai.generate.constraints import JsonSchema, Length, Matches, MustContain, MustNotContain, OneOf, Verse
from flagai.generate.constraints.parse import parse, to_plain


@pytest.mark.parametrize(
    ("plain", "spec"),
    [
        ({"must_contain": "月"}, MustContain(("月",))),
        ({"must_contain": {"words": ["a", "b", "a"], "whole": False}}, MustContain(("a", "b"), whole=False)),
        ({"must_not_contain": ["x"]}, MustNotContain(("x",))),
        ({"one_of": ["yes ", "no"]}, OneOf(("yes", "no"))),
        ("matches: '[a-z]+'", Matches("[a-z]+")),
        ({"json_schema": {"type": "integer"}}, JsonSchema('{"type": "integer"}')),
        ({"length": 9}, Length(most=9)),
        ({"length": [2, 9]}, Length(least=2, most=9)),
        ("length: {least: 2, unit: words}", Length(least=2, unit="words")),
        ({"verse": "五言绝句"}, Verse(form="五言绝句", rhyme=True, tones=True)),
        ({"verse": [5, 7]}, Verse(form=(5, 7), rhyme=False, tones=False)),
        ({"verse": {"form": [2, 2], "tones": ["平仄", "中平"], "rhyme": "唐"}},
         Verse(form=(2, 2), tones=("平仄", "中平"), rhyme="十唐")),
    ],
)  # fmt: skip
def test_plain_data_becomes_a_constraint_and_comes_back(plain: Any, spec: Any) -> None:
    assert parse(plain) == (spec,) == parse(spec)
    assert parse(to_plain([spec])) == (spec,)
    assert hash(spec) == hash(parse(plain)[0])


def test_many_at_once() -> None:
    assert parse(None) == ()
    both = (MustContain(("月",)), Length(most=20))
    assert parse({"must_contain": ["月"], "length": 20}) == both
    assert parse([{"must_contain": ["月"]}, "length: 20"]) == both


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"must_contain": []}, "none of them empty"),
        ({"must_contain": ["a", ""]}, "none of them empty"),
        ({"must_contain": {"whole": True}}, "words is missing"),
        ({"one_of": [" "]}, "white space"),
        ({"matches": "["}, "regular expression"),
        ({"json_schema": "{"}, "no JSON"),
        ({"json_schema": [1]}, "a mapping"),
        ({"json_schema": {"type": "integer", "minimum": 1}}, "'minimum' at #"),
        ({"json_schema": {"type": "object", "properties": {"a": {"oneOf": []}}}}, "'oneOf' at #/properties/a"),
        ({"json_schema": {"type": "string", "pattern": "a", "maxLength": 3}}, "'maxLength' beside 'pattern'"),
        ({"json_schema": {"type": "string", "format": "email"}}, "format 'email'"),
        ({"json_schema": {"type": "array"}}, "array of anything"),
        ({"json_schema": {"enum": ["a"], "type": "integer"}}, "no integer"),
        ({"json_schema": {"type": "object", "properties": {}, "required": ["b"]}}, "'b', which is required"),
        ({"length": [9, 2]}, "more than length.most"),
        ({"length": -1}, "whole number from 1"),
        ({"length": {"least": True}}, "whole number from 0"),
        ({"length": {"most": 3, "unit": "lines"}}, "characters, tokens, words"),
        ({"verse": {"form": [5, 0]}}, "length of each line"),
        ({"verse": {"form": [5, 5], "tones": True}}, "known tone patterns"),
        ({"verse": {"form": [2], "tones": ["平平平"]}}, "pattern of 平"),
        ("月", "has no name"),
        (7, "a constraint is 7"),
    ],
)
def test_what_cannot_be_meant_is_refused(bad: Any, said: str) -> None:
    with pytest.raises(ConfigError, match="constraints") as caught:
        parse(bad)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("bad", "near"),
    [
        ({"must_contains": "a"}, "must_contain"),
        ({"length": {"mots": 3}}, "most"),
        ({"verse": "五言绝"}, "五言绝句"),
        ({"verse": {"form": "五言绝句", "rhyme": "十堂"}}, "十唐"),
    ],
)
def test_unknown_names_get_the_nearest(bad: Any, near: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        parse(bad)
    assert near in caught.value.fix


@pytest.mark.parametrize(
    "bad",
    [
        {"must_contain": ["apple"], "must_not_contain": ["pp"]},
        {"must_contain": ["apple"], "length": 4},
    ],
)
def test_what_contradicts_itself_is_refused(bad: Any) -> None:
    with pytest.raises(ConfigError, match="contradict"):
        parse(bad)


def test_naming_a_constraint_loads_no_torch() -> None:
    code = (
        "import sys; from flagai.generate.constraints.parse import parse; parse({'verse': '五言绝句'}); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
