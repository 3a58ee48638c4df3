"""The processor itself: pure in the history, in time for the last token, and with a way back."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from tests.generate.constraints.worlds import faults, tokenizer, write
from torch import Tensor

from flagai.errors import ConfigError, MissingExtraError
from flagai.generate.constraints import readings
from flagai.generate.constraints.parse import parse
from flagai.generate.constraints.pieces import Piece
from flagai.generate.constraints.processor import ConstraintProcessor, make_constraint
from flagai.generate.constraints.vocabulary import Vocabulary

SIGNS = ["", "a", "b", "月", "ab", " "]
LETTERS = Vocabulary([None if not one else Piece(one.encode()) for one in SIGNS])
END, WIDTH = 0, 8  # two rows of the scores have no token


def made(constraints: Any, most: int = 6, **options: Any) -> ConstraintProcessor:
    return make_constraint(parse(constraints), LETTERS, end_ids=[END], max_new_tokens=most, **options)


def allowed(processor: ConstraintProcessor, *tokens: int) -> list[int]:
    history = torch.tensor([[-1, -1, *tokens]])
    scores = torch.arange(WIDTH).float()[None]
    found = processor(history, scores)
    kept = found[0] > -torch.inf
    assert torch.equal(found[0][kept], scores[0][kept])
    assert processor.allowed(tokens, WIDTH).tolist() == kept.tolist()
    return torch.nonzero(kept)[:, 0].tolist()


def test_the_end_waits_for_the_word_and_the_word_for_no_one() -> None:
    processor = made({"must_contain": {"words": ["ab"], "whole": False}})
    assert allowed(processor) == [1, 2, 3, 4, 5]
    assert allowed(processor, 4) == [0, 1, 2, 3, 4, 5]
    assert allowed(processor, 3, 3, 3) == [1, 2, 3, 4, 5]
    assert allowed(processor, 3, 3, 3, 3) == [1, 4]  # two tokens are left: a and b, or ab and any
    assert allowed(processor, 3, 3, 3, 3, 3) == [4]
    assert allowed(processor, 3, 3, 3, 3, 1) == [2, 4]
    assert allowed(processor, 3, 3, 3, 3, 3, 4) == [0]  # no more tokens, but the end


def test_less_time_than_single_characters_need_takes_longer_tokens() -> None:
    processor = made({"must_contain": {"words": ["abab"], "whole": False}}, most=2)
    assert allowed(processor) == [4]
    assert allowed(processor, 4) == [4]
    assert allowed(made({"must_contain": {"words": ["aba"], "whole": False}}, most=1)) == []


def test_bounds_on_tokens() -> None:
    processor = made({"length": {"least": 2, "most": 3, "unit": "tokens"}})
    assert allowed(processor, 1) == [1, 2, 3, 4, 5, 6, 7]
    assert allowed(processor, 1, 1) == list(range(WIDTH))
    assert allowed(processor, 1, 1, 1) == [0]
    assert [processor.satisfied([1] * n) for n in range(5)] == [False, False, True, True, False]
    with pytest.raises(ConfigError, match="at least 7"):
        made({"length": {"least": 7, "unit": "tokens"}})


def test_rows_stand_for_themselves_in_any_order() -> None:
    processor = made({"must_contain": ["b"], "length": [2, 4]})
    rows = [[1, 2], [3], [], [2, 3, 1, 1], [4, 4, 4], [1, 2]]
    history = torch.tensor([[-1] * (5 - len(row)) + row for row in rows])
    together = processor(history, torch.zeros(len(rows), WIDTH))
    alone = [
        made({"must_contain": ["b"], "length": [2, 4]})(history[i : i + 1], torch.zeros(1, WIDTH)) for i in range(6)
    ]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(processor(history.flip(0), torch.zeros(6, WIDTH)), together.flip(0))
    assert processor(history[:0], torch.zeros(0, WIDTH)).shape == (0, WIDTH)


def test_what_was_not_allowed_before_leaves_nothing() -> None:
    assert allowed(made({"one_of": ["a", "b月"]}), 3) == []
    assert allowed(made({"one_of": ["a", "b月"]}), 2) == [3]


def test_forbidden_tokens_are_taken_into_account() -> None:
    processor = made({"matches": "ab月?"}, forbidden=[2])
    assert allowed(processor, 4) == [0, 3]
    assert allowed(processor, 1) == []  # there is a b, but only behind an a: this is seen when it is too late
    with pytest.raises(ConfigError, match="cannot write"):
        made({"matches": "ab月"}, forbidden=[3])


def test_the_way_back_is_bounded_and_closes_what_it_leaves() -> None:
    processor = made({"length": [1, 5]})
    assert processor.backtrack((1, 2, 3), 0) == 2
    assert 3 not in allowed(processor, 1, 2) and 2 in allowed(processor, 1, 2)
    assert processor.backtrack((1, 2, 2, 2), 40) == 1  # after many setbacks from further back
    assert 2 not in allowed(processor, 1)
    for tokens, setbacks in (((), 0), ((1, 2), 10_000)):
        with pytest.raises(ConfigError, match="cannot be met"):
            processor.backtrack(tokens, setbacks)


def test_what_is_compiled_is_kept() -> None:
    first = made({"must_contain": ["ab", "月"]})
    assert made({"must_contain": ["ab", "月"]}, most=9)._machine is first._machine
    assert made({"must_contain": ["ab", "月"]}, forbidden=[5])._machine is not first._machine


WAYS: list[dict[str, Any]] = [{"num_beams": 2}, {"do_sample": True, "seed": 0, "num_return_sequences": 50}, {}]


@pytest.mark.parametrize("way", WAYS)
def test_what_other_options_forbid_sends_answers_back(way: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a pair of letters twice there are few words of five letters a and b, and many dead ends.
    asked = {"matches": "[ab]+[.]", "length": [6, 6]}
    returns, back = [], ConstraintProcessor.backtrack
    monkeypatch.setattr(ConstraintProcessor, "backtrack", lambda *args: (returns.append(args[1]), back(*args))[1])
    (answers,) = write("spaces", asked, no_repeat_ngram_size=2, max_new_tokens=9, **way)
    assert [fault for one in answers for fault in faults("spaces", one.tokens, asked)] == []
    assert returns or not way.get("do_sample")


@pytest.mark.parametrize("way", WAYS)
def test_going_back_ends(way: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="setbacks"):
        write("spaces", {"matches": "[ab]+[.]", "length": [9, 9]}, no_repeat_ngram_size=2, max_new_tokens=9, **way)


@pytest.mark.parametrize(
    ("module", "asked"),
    [("outlines_core", {"matches": "a"}), ("outlines_core", {"json_schema": {"type": "null"}}), ("pypinyin", "verse")],
)
def test_a_missing_library_is_named(module: str, asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    readings._dictionary.cache_clear()
    readings.readings.cache_clear()
    for name in (module, f"{module}.pinyin_dict"):
        monkeypatch.setitem(sys.modules, name, None)
    known = Vocabulary([Piece(one.encode()) for one in "山，。"])
    with pytest.raises(MissingExtraError, match=r"flagai\[writing\]"):
        make_constraint(
            parse({"verse": "五言绝句"} if asked == "verse" else asked), known, end_ids=[0], max_new_tokens=9
        )


@pytest.mark.parametrize("way", [{"num_beams": 2}, {"do_sample": True, "seed": 0}, {}])
def test_what_cannot_be_met_with_other_options_is_an_error(way: dict[str, Any]) -> None:
    banned = [i for i in range(len(tokenizer("words"))) if tokenizer("words").convert_ids_to_tokens(i) in ("y", "yes")]
    with pytest.raises(ConfigError):
        write("words", {"one_of": ["yes"]}, suppress_tokens=banned, max_new_tokens=6, **way)


def test_greedy_is_the_best_allowed_token() -> None:
    """The slow twin: the most probable of the tokens after which a plain search finds an end."""
    asked = {"matches": "(cat|the|[0-9])( mat| night)?"}

    def plain(history: Tensor) -> list[int]:
        processor = make_constraint(
            parse(asked), Vocabulary.of(tokenizer("words")), end_ids=[0], max_new_tokens=8, forbidden=[]
        )
        return [i for i in range(len(tokenizer("words"))) if processor.allowed(history.tolist(), 120)[i]]

    ((answer,),) = write("words", asked, max_new_tokens=8)
    assert answer.tokens[0] in plain(torch.tensor([], dtype=torch.long))
    assert faults("words", answer.tokens, asked) == []
