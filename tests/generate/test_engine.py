"""Requests that come and go in one running batch get the answers that they get alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.generate.chatter import END, VOCAB, Chatter, greedy
from tests.generate.writers.tiny import build

from flagai.errors import ConfigError, DataError
from flagai.generate.engine import Engine, Finished
from flagai.generate.generate import write
from flagai.generate.options import GenerationOptions
from flagai.generate.searches import make_search
from flagai.generate.writers.base import Prompt
from flagai.generate.writers.make import make_writer

PROMPTS = [(3,), (5, 9, 2), (7, 7), (11, 4, 8, 15), (6,), (20, 1)]
DRAW = {"do_sample": True, "temperature": 1.3, "seed": 5}
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "no repeats": {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    "draws": {**DRAW, "top_k": 12, "num_return_sequences": 3},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
}


def tokens_of(finished: Finished) -> list[tuple[int, ...]]:
    return [filling[-1].tokens for filling in finished.fillings]


def alone(ids: Sequence[int], options: GenerationOptions, copy: int = 0) -> list[tuple[int, ...]]:
    engine = Engine(Chatter())
    engine.submit(Prompt(ids=tuple(ids)), options, copy=copy)
    (finished,) = engine.run()
    return tokens_of(finished)


def test_greedy_is_its_slow_twin() -> None:
    for ids in PROMPTS:
        assert alone(ids, GenerationOptions(max_new_tokens=12)) == [tuple(greedy(ids, 12))]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("max_rows", [None, 1, 4])
def test_together_is_one_by_one(way: str, max_rows: int | None) -> None:
    options = GenerationOptions(max_new_tokens=12, **WAYS[way])
    engine = Engine(Chatter(), max_rows=max_rows)
    numbers = [engine.submit(Prompt(ids=ids), options) for ids in PROMPTS]
    found = {finished.number: tokens_of(finished) for finished in engine.run()}
    assert [found[number] for number in numbers] == [alone(ids, options) for ids in PROMPTS]


@pytest.mark.parametrize("pause", [1, 3])
def test_requests_with_other_options_join_between_steps(pause: int) -> None:
    asked = [
        (ids, GenerationOptions(max_new_tokens=4 + 2 * i, **way))
        for i, (ids, way) in enumerate(itertools.product(PROMPTS[:3], WAYS.values()))
    ]
    engine, found, waiting = Engine(Chatter(), max_rows=9), {}, list(asked)
    numbers = []
    while waiting or not engine.idle:
        if waiting and engine.steps % pause == 0:
            ids, options = waiting.pop(0)
            numbers.append(engine.submit(Prompt(ids=ids), options))
        found |= {finished.number: tokens_of(finished) for finished in engine.step()}
    assert [found[number] for number in numbers] == [alone(*one) for one in asked]


def test_finished_rows_are_not_fed_and_free_their_places() -> None:
    writer = Chatter()
    engine = Engine(writer, max_rows=2)
    lengths = [2, 9, 4]
    for ids, most in zip(PROMPTS, lengths, strict=False):
        options = GenerationOptions(max_new_tokens=most, min_new_tokens=most)
        engine.submit(Prompt(ids=ids), options)
    assert all(finished.error is None for finished in engine.run())
    # The last token of an answer is not fed: 1 + 8 + 3 rows in all, never more than two at a time.
    assert sum(writer.fed) == sum(lengths) - len(lengths)
    assert max(writer.fed) == 2
    assert writer.read == 3


def test_equal_prompts_are_read_once() -> None:
    writer = Chatter()
    engine = Engine(writer)
    engine.submit(Prompt(ids=(3,)), GenerationOptions(max_new_tokens=5, num_return_sequences=7, **DRAW))
    (finished,) = engine.run()
    assert writer.read == 1
    assert len(set(tokens_of(finished))) > 1


def test_draws_depend_on_seed_copy_and_sequence_alone() -> None:
    options = GenerationOptions(max_new_tokens=12, num_return_sequences=2, **DRAW)
    first, second = alone((3,), options), alone((3,), options, copy=1)
    assert first == alone((3,), options)
    assert first != second
    assert first[0] != first[1]


def test_answers_tell_how_they_ended_and_how_likely_each_token_was() -> None:
    engine = Engine(Chatter())
    engine.submit(Prompt(ids=(3,)), GenerationOptions(max_new_tokens=40, seed=1, do_sample=True))
    (finished,) = engine.run()
    (answer,) = finished.fillings[0]
    assert (answer.finish, answer.end, answer.ended) == ("end", END, True)
    writer, rows = Chatter(), []
    scores = writer.begin([Prompt(ids=(3,))])
    for token in (*answer.tokens, END):
        rows.append(float(scores.log_softmax(1)[0, token]))
        scores = writer.feed(torch.tensor([token]))
    assert answer.logprobs == pytest.approx(rows, abs=1e-5)
    assert answer.logprob == pytest.approx(sum(rows), abs=1e-4)


class Letters:
    """A tokenizer of letters."""

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(chr(ord("a") + i) for i in ids)


@pytest.mark.parametrize("way", ["greedy", "draws", "beams"])
def test_a_stop_string_ends_an_answer_where_it_appears(way: str) -> None:
    options = GenerationOptions(max_new_tokens=12, min_new_tokens=12, **WAYS[way])
    text = Letters().decode(alone((3,), options)[0])
    stop = text[4:6]
    engine = Engine(Chatter(), tokenizer=Letters())
    engine.submit(Prompt(ids=(3,)), GenerationOptions(**{**vars_of(options), "stop": stop}))
    (finished,) = engine.run()
    for filling in finished.fillings:
        written = Letters().decode(filling[-1].tokens)
        assert (filling[-1].finish == "stop") == (stop in written)
        assert stop not in written[:-1]
    if way != "beams":
        assert Letters().decode(finished.fillings[0][-1].tokens) == text[: text.index(stop) + 2]


def vars_of(options: GenerationOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__dataclass_fields__}


def test_a_request_can_be_given_up() -> None:
    options = GenerationOptions(max_new_tokens=9, min_new_tokens=9)
    engine = Engine(Chatter(), max_rows=5)
    beams = GenerationOptions(max_new_tokens=9, min_new_tokens=9, num_beams=3)
    gone, kept, waits = (
        engine.submit(Prompt(ids=ids), one) for ids, one in zip(PROMPTS, (beams, options, beams), strict=False)
    )
    engine.step()
    assert engine.cancel(gone)
    assert not engine.cancel(gone)
    found = {finished.number: tokens_of(finished) for finished in engine.run()}
    assert found == {kept: alone(PROMPTS[1], options), waits: alone(PROMPTS[2], beams)}


def test_tokens_are_told_as_they_come() -> None:
    told: list[tuple[int, int, int]] = []
    engine = Engine(Chatter())
    numbers = [
        engine.submit(Prompt(ids=ids), GenerationOptions(max_new_tokens=6), on_token=lambda *one: told.append(one))
        for ids in PROMPTS[:2]
    ]
    found = {finished.number: tokens_of(finished)[0] for finished in engine.run()}
    for number in numbers:
        assert tuple(token for who, blank, token in told if who == number and blank == 0) == found[number]


def test_one_request_without_a_token_leaves_the_others_alone() -> None:
    engine = Engine(Chatter())
    bad = engine.submit(Prompt(ids=(3,)), GenerationOptions(suppress_tokens=tuple(range(VOCAB)), max_new_tokens=3))
    good = engine.submit(Prompt(ids=(3,)), GenerationOptions(max_new_tokens=3))
    found = {finished.number: finished for finished in engine.run()}
    assert isinstance(found[bad].error, ConfigError)
    assert "no token" in str(found[bad].error)
    assert tokens_of(found[good]) == [tuple(greedy((3,), 3))]


@pytest.mark.parametrize(
    ("ids", "options", "error", "message"),
    [
        ((), {}, DataError, "empty"),
        ((3,), {"max_new_tokens": 65}, ConfigError, "at most 64"),
        ((3,), {"suppress_tokens": (VOCAB,)}, ConfigError, "0 to 23"),
        ((3,), {"eos_token_id": VOCAB}, ConfigError, "eos_token_id has 24"),
    ],
)
def test_mistakes_are_named_when_a_request_is_submitted(
    ids: tuple[int, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    engine = Engine(Chatter())
    with pytest.raises(error, match=message):
        engine.submit(Prompt(ids=ids), GenerationOptions(**options))
    assert engine.idle


class Bytes:
    """One token for each byte of UTF-8, as byte-level vocabularies write rare characters; 256 is the end of a turn."""

    all_special_tokens = ("<turn>",)
    backend_tokenizer = None

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        parts = [b"<turn>" * (not skip_special_tokens) if one == 256 else bytes([one]) for one in tokens]
        return b"".join(parts).decode(errors="replace")


@pytest.mark.parametrize("stop", ["完结撒花再见", "<turn>"])
def test_a_stop_string_of_many_tokens_or_of_a_special_one(stop: str) -> None:
    stops = make_search(GenerationOptions(stop=stop), Chatter(), Bytes())._setting.stops  # type: ignore[attr-defined]
    tokens = [65, 66, *([256] if stop == "<turn>" else stop.encode())]
    assert [stops(tokens[:n]) for n in range(1, len(tokens) + 1)] == [False] * (len(tokens) - 1) + [True]


@pytest.mark.parametrize("fast", [True, False])
def test_giving_up_between_steps_leaves_the_others(fast: bool) -> None:
    """Of a real cache: what was made in inference mode is changed in it only."""
    options = GenerationOptions(max_new_tokens=6)
    model = build("gpt2")

    def answers(gone: bool) -> list[tuple[int, ...]]:
        engine = Engine(make_writer(model, fast=fast))
        engine.submit(Prompt(ids=(3, 4)), options)
        other = engine.submit(Prompt(ids=(5, 6, 7)), GenerationOptions(max_new_tokens=6, num_beams=3)) if gone else None
        engine.step()
        engine.step()
        assert other is None or engine.cancel(other)
        return [tokens_of(one)[0] for one in engine.run()]

    assert answers(gone=True) == answers(gone=False)


@pytest.mark.parametrize("way", [{}, {"num_beams": 2}], ids=str)
def test_what_is_not_drawn_leaves_torchs_stream_alone(way: dict[str, Any]) -> None:
    """Evaluation within training writes: how often it does must not change what training draws."""
    before = torch.get_rng_state()
    write(Chatter(), [Prompt(ids=(3,))], GenerationOptions(max_new_tokens=3, **way))
    assert torch.equal(torch.get_rng_state(), before)


def test_stop_strings_want_a_tokenizer() -> None:
    engine = Engine(Chatter())
    with pytest.raises(ConfigError, match="tokenizer"):
        engine.submit(Prompt(ids=(3,)), GenerationOptions(stop="a"))
    assert engine.idle
