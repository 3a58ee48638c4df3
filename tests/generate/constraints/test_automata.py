"""Automata against the independent checker, letter by letter; joined distances against a plain search."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from flagai.errors import ConfigError
from flagai.generate.constraints import product
from flagai.generate.constraints.check import check
from flagai.generate.constraints.compile import compile_machine, make_automata
from flagai.generate.constraints.machine import Machine
from flagai.generate.constraints.parse import parse
from flagai.generate.constraints.pieces import Piece
from flagai.generate.constraints.product import FAR
from flagai.generate.constraints.vocabulary import Vocabulary

SIGNS = "ab1 月."
LETTERS = Vocabulary([Piece(one.encode()) for one in SIGNS])
WORDS = Vocabulary([Piece(one.encode()) for one in [*SIGNS, "ab", " a", "b1", "月."]])
CASES: dict[str, Any] = {
    "whole word": {"must_contain": ["ab"]},
    "whole word with repeats": {"must_contain": ["aba"]},
    "words with marks": {"must_contain": ["a.", "月"]},
    "part": {"must_contain": {"words": ["aab"], "whole": False}},
    "forbidden": {"must_not_contain": ["ab", "ba", "aa", "1"]},
    "choice": {"one_of": ["a", "ab", "b 1", "月月"]},
    "pattern": {"matches": "a*(b|月+)1?"},
    "pattern that repeats": {"matches": "^(ab|月 )+$"},
    "any sign": {"matches": "[^a].[^月]?"},
    "characters": {"length": [2, 3]},
    "words counted": {"length": {"least": 2, "most": 3, "unit": "words"}},
    "at least": {"length": {"least": 3}},
    "together": {"must_contain": ["月"], "must_not_contain": ["a "], "length": [2, 4]},
}


@pytest.mark.parametrize("name", CASES)
def test_accepted_is_what_the_checker_accepts(name: str) -> None:
    specs = parse(CASES[name])
    machine = Machine(LETTERS, make_automata(specs, LETTERS))
    accepted = 0
    for length in range(5):
        for tokens in itertools.product(range(len(SIGNS)), repeat=length):
            text = "".join(SIGNS[i] for i in tokens)
            if text.startswith(" "):
                continue  # white space in front is no part of the answer
            state: Any = machine.start
            for token in tokens:
                state = None if state is None else machine.step(state, token)
            found = state is not None and machine.accepts(state)
            expected = not any(check(text, spec) for spec in specs)
            # White space behind it: some constraints leave it out, none may be wrong about the rest.
            assert found == expected or (text.endswith(" ") and not found), (text, found)
            accepted += found
    assert accepted


def plain_distance(machine: Machine, state: Any, most: int) -> int:
    """The slow twin: breadth first over tokens."""
    seen, frontier = {state}, [state]
    for length in range(most + 1):
        if any(machine.accepts(one) for one in frontier):
            return length
        steps = (machine.step(one, token) for one in frontier for token in range(len(LETTERS)))
        frontier = list({one for one in steps if one is not None} - seen)
        seen |= set(frontier)
    return FAR


@pytest.mark.parametrize("name", CASES)
def test_distances_and_needs_are_those_of_a_plain_search(name: str) -> None:
    machine = Machine(LETTERS, make_automata(parse(CASES[name]), LETTERS))
    seen, frontier = {machine.start}, [machine.start]
    for _ in range(3):
        for state in frontier:
            assert machine.distance(state) == plain_distance(machine, state, 8)
            following = [machine.step(state, token) for token in range(len(LETTERS))]
            needs = [FAR if one is None else machine.distance(one) for one in following]
            assert machine.needs(state).tolist() == needs
        frontier = list({one for state in frontier for t in range(6) if (one := machine.step(state, t))} - seen)
        seen |= set(frontier)


@pytest.mark.parametrize("name", CASES)
def test_tokens_of_several_characters_lead_where_their_characters_lead(name: str) -> None:
    specs = parse(CASES[name])
    machine = Machine(WORDS, make_automata(specs, WORDS))
    state = machine.start
    for _ in range(2):
        needs = machine.needs(state)
        for token in range(len(WORDS)):
            following = machine.step(state, token)
            assert needs[token] == (FAR if following is None else machine.distance(following))
        state = next((one for t in (3, 9, 4, 7) if (one := machine.step(state, t)) is not None), state)


def test_too_many_joined_states_add_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = parse({"must_contain": ["ab", "月"], "length": [4, 9]})
    exact = Machine(LETTERS, make_automata(specs, LETTERS))
    monkeypatch.setattr(product, "_MOST_EDGES", 10)
    loose = Machine(LETTERS, make_automata(specs, LETTERS))
    assert exact.distances.exact and not loose.distances.exact
    assert exact.distance(exact.start) == 4 and loose.distance(loose.start) == 2 + 1 + 4
    after = loose.step(loose.start, 0)
    assert after is not None and np.array_equal(loose.needs(after) < FAR, exact.needs(after) < FAR)


@pytest.mark.parametrize(
    ("constraints", "said"),
    [
        ({"must_contain": ["xyz"]}, "cannot write"),
        ({"matches": "[A-Z]+"}, "cannot write"),
        ({"one_of": ["Q"]}, "cannot write"),
        ({"must_contain": ["ab", "ba"], "length": [1, 4]}, "contradict"),
        ({"matches": "a+", "must_contain": ["月"]}, "contradict"),
        ({"one_of": ["a", "b"], "must_contain": ["月"]}, "contradict"),
        ({"matches": "(?=a)b"}, "automaton"),
        ({"matches": "(a$|b)b"}, "$ stands inside"),
        ({"json_schema": {"type": "string", "pattern": "a.b"}}, "quotation marks"),
    ],
)
def test_what_no_answer_can_meet_is_an_error(constraints: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_machine(parse(constraints), LETTERS, frozenset())
    assert said in str(caught.value)


def test_forbidden_tokens_are_no_way() -> None:
    machine = compile_machine(parse({"must_contain": ["a"]}), WORDS, frozenset())
    assert machine.step(machine.start, 0) is not None
    with pytest.raises(ConfigError, match="cannot write"):
        compile_machine(parse({"must_contain": ["a"]}), WORDS, frozenset({0, 6, 7}))
