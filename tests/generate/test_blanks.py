"""Filling blanks: the original's recorded answers, the slow twin, batches, streams and mistakes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.generate import slow

from flagai.errors import ConfigError, DataError, UnknownNameError
from flagai.generate.blanks import fill
from flagai.generate.options import GenerationOptions, make_options
from flagai.generate.prompts import MOST_BLANKS, structural_ids


def tokens_of(fillings: Any) -> list[list[list[tuple[int, ...]]]]:
    return [[[answer.tokens for answer in filling] for filling in one] for one in fillings]


def contexts(commands: Any, count: int = 6) -> list[list[int]]:
    """Texts of different lengths with one to three masks."""
    random = torch.Generator().manual_seed(5)
    made = []
    for i in range(count):
        ids = torch.randint(2, 980, (4 + 3 * i,), generator=random).tolist()
        for mask, place in list(zip((commands.mask, commands.smask, commands.gmask), (1, 3, 5), strict=True))[
            : 1 + i % 3
        ]:
            ids.insert(place, mask)
        made.append([commands.cls, *ids, commands.eos])
    return made


def test_the_originals_greedy_trace(model: Any, commands: Any, recorded: Any) -> None:
    case = recorded["greedy_topk1"]
    (filling,) = fill(model, [case["context"]], commands=commands, options=GenerationOptions(max_new_tokens=8))[0]
    seen = list(case["context"])
    for answer, step in zip(filling, case["trace"], strict=True):
        seen += [commands.sop, *answer.tokens]
        assert seen == step["tokens"]


@pytest.mark.parametrize("name", ["beam5_lp0.7_min3_ng3", "beam4_lp1.0", "beam1"])
def test_the_originals_beams(model: Any, commands: Any, recorded: Any, name: str) -> None:
    case = recorded[name]
    options = GenerationOptions(
        num_beams=case["args"]["num_beams"],
        length_penalty=case["args"]["length_penalty"],
        min_new_tokens=case["args"]["min_tgt_length"],
        no_repeat_ngram_size=case["args"]["no_repeat_ngram_size"],
        max_new_tokens=case["tgt_seq_length"],
    )
    found = fill(model, case["src"], commands=commands, options=options)
    assert [" ".join(map(str, one[0][0].tokens)) for one in found] == case["pred"]


@pytest.mark.parametrize("most", [2, 8])
def test_cached_is_uncached(model: Any, commands: Any, most: int) -> None:
    options = GenerationOptions(max_new_tokens=most)
    banned = structural_ids(commands)
    cut = 0
    for context in contexts(commands):
        (filling,) = fill(model, [context], commands=commands, options=options)[0]
        twin = slow.greedy(model, context, commands, most=most, banned=banned)
        assert [list(one.tokens) for one in filling] == [tokens for tokens, _ in twin]
        assert [one.logprob for one in filling] == pytest.approx([total for _, total in twin], abs=1e-4)
        cut += sum(not one.ended for one in filling[:-1])
    assert cut or most > 2  # a later answer saw the last token of one that was cut off


def test_an_answer_has_the_log_probability_of_its_tokens_and_its_end(model: Any, commands: Any) -> None:
    context = contexts(commands)[0]
    (answer,) = fill(
        model, [context], commands=commands, options=GenerationOptions(max_new_tokens=8, length_penalty=0.5)
    )[0][0]
    place = slow.places(context, commands)[0]
    fed = [(commands.sop, place, 1), *((token, place, i + 2) for i, token in enumerate(answer.tokens))]
    parts = [slow.logprobs(model, context, fed[: i + 1])[token] for i, token in enumerate(answer.tokens)]
    if answer.ended:
        last = slow.logprobs(model, context, fed)
        parts.append(max(last[commands.eop], last[commands.eos]))
    assert answer.logprob == pytest.approx(float(sum(parts)), abs=1e-4)
    assert answer.score == pytest.approx(answer.logprob / max(len(answer.tokens), 1) ** 0.5)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_beams_are_the_slow_twins(model: Any, commands: Any, penalty: float) -> None:
    options = GenerationOptions(num_beams=3, num_return_sequences=3, length_penalty=penalty, max_new_tokens=6)
    one_mask = [context for context in contexts(commands, 9) if len(slow.places(context, commands)) == 1]
    assert len(one_mask) > 1
    for context, found in zip(one_mask, fill(model, one_mask, commands=commands, options=options), strict=True):
        twin = slow.beams(model, context, commands, most=6, width=3, penalty=penalty)
        assert [list(filling[0].tokens) for filling in found] == [tokens for _, tokens in twin]
        assert [filling[0].score for filling in found] == pytest.approx([score for score, _ in twin], abs=1e-4)


OPTIONS = {
    "greedy": GenerationOptions(max_new_tokens=5),
    "processors": GenerationOptions(
        max_new_tokens=6, min_new_tokens=2, repetition_penalty=1.7, no_repeat_ngram_size=2, suppress_tokens=(811,)
    ),
    "sampled": GenerationOptions(max_new_tokens=5, do_sample=True, top_k=40, top_p=0.95, temperature=1.3, seed=3),
    "several": GenerationOptions(max_new_tokens=5, do_sample=True, num_return_sequences=3, seed=4),
    "beams": GenerationOptions(max_new_tokens=5, num_beams=3, num_return_sequences=2, no_repeat_ngram_size=2),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_batch_is_one_by_one(model: Any, commands: Any, name: str) -> None:
    texts, options = contexts(commands), OPTIONS[name]
    alone = [fill(model, [text], commands=commands, options=options)[0] for text in texts]
    assert len({len(filling[0]) for filling in alone}) == 3  # texts with one, two and three blanks
    for most in (None, 2):
        together = fill(model, texts, commands=commands, options=options, max_rows=most)
        assert tokens_of(together) == tokens_of(alone)
    assert tokens_of(fill(model, texts[::-1], commands=commands, options=options))[::-1] == tokens_of(alone)


def test_later_beams_see_the_answer_before(model: Any, commands: Any) -> None:
    """The second blank of a text is answered as the one blank of the text in which the first is read already."""
    options = GenerationOptions(max_new_tokens=4, num_beams=2)
    context = next(c for c in contexts(commands) if len(slow.places(c, commands)) == 2)
    first, second = fill(model, [context], commands=commands, options=options)[0][0]
    place, later = slow.places(context, commands)
    fed = [(commands.sop, place, 1), *((token, place, i + 2) for i, token in enumerate(first.tokens))]
    fed.append((commands.sop, later, 1))
    best = slow.logprobs(model, context, fed)
    assert second.tokens[0] in best.topk(2).indices.tolist()
    assert second.logprob <= float(best[second.tokens[0]]) + 1e-5


def test_draws_repeat_with_their_seed_and_differ_otherwise(model: Any, commands: Any) -> None:
    text = contexts(commands)[0]

    def drawn(count: int, **settings: Any) -> Any:
        options = GenerationOptions(max_new_tokens=6, do_sample=True, temperature=5.0, **settings)
        return [one[0] for one in tokens_of(fill(model, [text] * count, commands=commands, options=options))]

    assert drawn(3, seed=1) == drawn(3, seed=1) != drawn(3, seed=2)
    assert len({str(one) for one in drawn(3, seed=1)}) == 3  # equal texts of a batch have streams of their own
    assert drawn(1, seed=1) == drawn(3, seed=1)[:1]
    torch.manual_seed(9)
    first = drawn(1)
    torch.manual_seed(9)
    assert drawn(1) == first


def test_tokens_are_shown_as_they_come(model: Any, commands: Any) -> None:
    shown: dict[tuple[int, int], list[int]] = {}
    order: list[tuple[int, int]] = []

    def note(text: int, blank: int, token: int) -> None:
        shown.setdefault((text, blank), []).append(token)
        order.append((text, blank))

    texts = contexts(commands, 3)
    found = fill(model, texts, commands=commands, options=GenerationOptions(max_new_tokens=4), on_token=note)
    for text, (filling,) in enumerate(found):
        for blank, answer in enumerate(filling):
            assert shown.get((text, blank), []) == list(answer.tokens)
    assert len({text for text, _ in order[:3]}) > 1  # not text after text


def test_least_length_and_forbidden_tokens_hold_in_every_way(model: Any, commands: Any, recorded: Any) -> None:
    source = recorded["beam4_lp1.0"]["src"]
    free = fill(model, source, commands=commands, options=GenerationOptions(max_new_tokens=8))
    assert any(len(one[0][0].tokens) < 4 for one in free) and any(811 in one[0][0].tokens for one in free)
    for way in ({}, {"num_beams": 3}, {"do_sample": True, "seed": 0}):
        options = GenerationOptions(max_new_tokens=8, min_new_tokens=4, suppress_tokens=(811,), **way)
        for one in fill(model, source, commands=commands, options=options):
            assert len(one[0][0].tokens) >= 4 and 811 not in one[0][0].tokens


@pytest.mark.parametrize("name", ["dblock", "cls", "smask", "gmask", "pad"])
def test_a_token_that_no_answer_was_trained_to_have_is_never_chosen(model: Any, commands: Any, name: str) -> None:
    """The most probable token of an answer becomes a token of structure: another one is chosen."""
    context = [996, 5, 17, 300, commands.mask, 992]
    options = GenerationOptions(max_new_tokens=1, min_new_tokens=1)
    ((first,),) = fill(model, [context], commands=commands, options=options)[0]
    changed = dataclasses.replace(commands, **{name: first.tokens[0]})
    ((second,),) = fill(model, [context], commands=changed, options=options)[0]
    assert second.tokens != first.tokens and second.logprob < first.logprob


def test_texts_are_counted_from_one(model: Any, commands: Any) -> None:
    good = [commands.cls, commands.mask]
    with pytest.raises(DataError, match="text 2: the text has no mask"):
        fill(model, [good, [commands.cls]], commands=commands)
    with pytest.raises(DataError, match="text 2: the text has 66 tokens"):
        fill(model, [good, [*good, *[5] * 64]], commands=commands)


def test_mistakes_are_named(model: Any, commands: Any) -> None:
    def run(ids: list[int], **settings: Any) -> Any:
        return fill(model, [ids], commands=commands, options=GenerationOptions(**{"max_new_tokens": 4, **settings}))

    good = [commands.cls, 5, commands.mask, commands.eos]
    with pytest.raises(DataError, match="has no mask"):
        run([commands.cls, 5, commands.eos])
    with pytest.raises(DataError, match=f"has {MOST_BLANKS + 1} masks"):
        run([commands.cls] + [commands.mask] * (MOST_BLANKS + 1))
    with pytest.raises(DataError, match=r"has 65 tokens(.|\n)*at most 64"):
        run([commands.cls, *[5] * 63, commands.mask])
    assert run([commands.cls, *[5] * 62, commands.mask])
    with pytest.raises(ConfigError, match=r"max_new_tokens is 65(.|\n)*at most 64"):
        run(good, max_new_tokens=65)
    with pytest.raises(ConfigError, match=r"max_new_tokens is 64(.|\n)*at most 63"):
        run([commands.mask, *good], max_new_tokens=64)
    with pytest.raises(ConfigError, match="shown as they come"):
        fill(model, [good], commands=commands, options=GenerationOptions(max_new_tokens=4, num_beams=2), on_token=print)
    assert fill(model, [], commands=commands) == []


def test_the_longest_answers_fit_the_tables(model: Any, commands: Any) -> None:
    never_ends = {"min_new_tokens": 63, "max_new_tokens": 63}
    two = [commands.cls, commands.mask, 7, commands.gmask]
    for way in ({}, {"num_beams": 2}):
        (filling,) = fill(model, [two], commands=commands, options=GenerationOptions(**never_ends, **way))[0]
        assert [len(answer.tokens) for answer in filling] == [63, 63]
    options = GenerationOptions(min_new_tokens=64, max_new_tokens=64)
    ((answer,),) = fill(model, [two[:2]], commands=commands, options=options)[0]
    assert len(answer.tokens) == 64
    ((answer,),) = fill(model, [two[:2]], commands=commands, options=GenerationOptions(min_new_tokens=50))[0]
    assert len(answer.tokens) <= 64  # what the model has room for, where no one says how long
    with pytest.raises(ConfigError, match="min_new_tokens 65 is more than max_new_tokens 64"):
        fill(model, [two[:2]], commands=commands, options=GenerationOptions(min_new_tokens=65))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5, "do_sample": True}, "top_p is 1.5"),
        ({"temperature": 0, "do_sample": True}, "temperature is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": True}, "top_k is True"),
        ({"min_p": 1.0}, "min_p is 1.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"num_beams": 1.5}, "num_beams is 1.5"),
        ({"suppress_tokens": [3, -1]}, "suppress_tokens"),
        ({"suppress_tokens": 3}, "suppress_tokens"),
        ({"do_sample": 1}, "do_sample is 1"),
        ({"seed": -1}, "seed is -1"),
        ({"num_beams": None}, "num_beams is None"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "is more than max_new_tokens"),
        ({"do_sample": True, "num_beams": 2}, "both set"),
        ({"num_return_sequences": 2}, "2 answers are asked for"),
        ({"top_k": 5}, "top_k without do_sample has no effect"),
    ],
)
def test_options_that_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationOptions(**settings)


def test_options_by_name() -> None:
    base = GenerationOptions(do_sample=True, top_k=5)
    assert make_options({"top_p": 0.5, "seed": None}, base) == GenerationOptions(do_sample=True, top_k=5, top_p=0.5)
    with pytest.raises(UnknownNameError, match="did you mean 'top_k'"):
        make_options({"topk": 3})
