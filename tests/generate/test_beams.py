"""Beam search: Hugging Face's token for token, groups against a slow twin, requests that come and go, dead ends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.generate import slow
from tests.generate.searching import Read, ask, reader, run, tokens_of
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList

from flagai.errors import ConfigError
from flagai.generate.beams import Beams
from flagai.generate.options import GenerationOptions
from flagai.generate.processors import NOTHING, make_processors
from flagai.generate.prompts import structural_ids
from flagai.generate.ranking import best
from flagai.generate.search import Setting

V = 50
CPU = torch.device("cpu")
PROMPTS = [[7, 3, 9], [5], [11, 12, 13, 14, 15, 16], [1, 2, 30, 4], [21, 8]]


@pytest.fixture(scope="module")
def gpt2() -> Any:
    """Sure enough of itself that answers end at different lengths."""
    torch.manual_seed(3)
    config = GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=V, n_positions=64, initializer_range=0.3)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def read(gpt2: Any) -> Read:
    known: dict[Any, Any] = {}
    inner = reader(gpt2)

    def remembered(ids: Sequence[int], written: Sequence[int]) -> Any:
        key = (*ids, *written)
        if key not in known:
            known[key] = inner(ids, written)
        return known[key]

    return remembered


def setting(options: GenerationOptions, ends: Sequence[int], **fields: Any) -> Setting:
    processors = make_processors(options, end_ids=ends, device=CPU)
    return Setting(device=CPU, end_ids=tuple(ends), processors=processors, **fields)


def searched(
    read: Read, options: GenerationOptions, ends: Sequence[int], prompts: Sequence[Sequence[int]], **fields: Any
) -> list[Any]:
    """Each prompt's answers, where the prompts come two steps after one another."""
    arrivals = {2 * i: [ask(i, ids, options)] for i, ids in enumerate(prompts)}
    found = run(Beams(options, setting(options, ends, **fields)), arrivals, read)
    return [found[i] for i in range(len(prompts))]


class OfTheAnswer(LogitsProcessor):
    """Our processors in Hugging Face's search; the prompt does not count, as it does not for us."""

    def __init__(self, processors: Sequence[Any], length: int) -> None:
        self.processors, self.length = processors, length

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        for processor in self.processors:
            scores = processor(input_ids[:, self.length :], scores)
        return scores


def theirs(model: Any, ids: Sequence[int], options: GenerationOptions, ends: Sequence[int]) -> tuple[Any, list[float]]:
    processors = make_processors(options, end_ids=ends, device=CPU)
    outputs = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=options.max_new_tokens,
        num_beams=options.num_beams,
        num_return_sequences=options.num_return_sequences,
        length_penalty=options.length_penalty,
        early_stopping=options.early_stopping,
        do_sample=False,
        eos_token_id=list(ends) or None,
        pad_token_id=V + 1,
        logits_processor=LogitsProcessorList([OfTheAnswer(processors, len(ids))]),
        output_scores=True,
        return_dict_in_generate=True,
    )
    tokens = [tuple(t for t in one[len(ids) :] if t != V + 1) for one in outputs.sequences.tolist()]
    return tokens, outputs.sequences_scores.tolist()


CASES = [
    {"num_beams": beams, "length_penalty": penalty, "early_stopping": early, "num_return_sequences": count}
    for (beams, count), penalty, early in itertools.product(
        [(2, 1), (4, 4)], [0.0, 1.0, 2.5, -1.0], [False, True, "never"]
    )
]


@pytest.mark.parametrize("ends", [(27,), (11, 49, 2), ()], ids=["an end", "ends", "no end"])
def test_as_hugging_face(gpt2: Any, read: Read, ends: tuple[int, ...]) -> None:
    finishes, lengths = set(), set()
    for case in CASES if ends else CASES[:2]:
        options = GenerationOptions(max_new_tokens=12, **case)
        for ids, answers in zip(PROMPTS, searched(read, options, ends, PROMPTS), strict=True):
            expected, scores = theirs(gpt2, ids, options, ends)
            assert tokens_of(answers) == expected, case
            assert [one.score for one in answers] == pytest.approx(scores, rel=1e-5), case
            finishes |= {one.finish for one in answers}
            lengths |= {len(one.tokens) for one in answers}
    assert finishes == ({"end", "length"} if ends else {"length"}) and len(lengths) > (3 if ends else 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.6},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 5},
        {"suppress_tokens": (4, 40), "no_repeat_ngram_size": 1, "repetition_penalty": 0.8},
    ],
    ids=lambda one: next(iter(one)),
)
def test_as_hugging_face_with_processors(gpt2: Any, read: Read, settings: dict[str, Any]) -> None:
    options = GenerationOptions(max_new_tokens=10, num_beams=3, num_return_sequences=2, **settings)
    plain = GenerationOptions(max_new_tokens=10, num_beams=3, num_return_sequences=2)
    ours = searched(read, options, (11, 33), PROMPTS)
    for ids, answers in zip(PROMPTS, ours, strict=True):
        expected, scores = theirs(gpt2, ids, options, (11, 33))
        assert tokens_of(answers) == expected
        assert [one.score for one in answers] == pytest.approx(scores, rel=1e-5)
    assert [tokens_of(one) for one in ours] != [tokens_of(one) for one in searched(read, plain, (11, 33), PROMPTS)]


def test_a_request_does_not_depend_on_when_it_comes(read: Read) -> None:
    options = GenerationOptions(max_new_tokens=9, num_beams=3, num_return_sequences=3, no_repeat_ngram_size=2)
    alone = [searched(read, options, (19,), [ids])[0] for ids in PROMPTS]
    assert searched(read, options, (19,), PROMPTS) == alone
    at_once = run(
        Beams(options, setting(options, (19,))), {0: [ask(i, p, options) for i, p in enumerate(PROMPTS)]}, read
    )
    assert [at_once[i] for i in range(len(PROMPTS))] == alone


def test_the_log_probabilities_are_the_models_own(read: Read) -> None:
    options = GenerationOptions(max_new_tokens=8, num_beams=3, repetition_penalty=2.0, length_penalty=0.0)
    for ids, (answer,) in zip(PROMPTS, searched(read, options, (19,), PROMPTS), strict=True):
        (tokens,) = tokens_of([answer])
        expected = [float(read(ids, tokens[:i])[0].log_softmax(0)[token]) for i, token in enumerate(tokens)]
        assert answer.logprobs == pytest.approx(expected, abs=1e-5)
        assert answer.logprob == pytest.approx(sum(expected), abs=1e-4)
        if len(set(tokens)) < len(tokens):
            assert answer.score < answer.logprob - 0.01


def test_what_is_written_already_is_a_part_of_the_answer(read: Read) -> None:
    options = GenerationOptions(max_new_tokens=7, num_beams=2, no_repeat_ngram_size=1)
    found = run(Beams(options, setting(options, (19,))), {0: [ask(0, [7, 3], options, written=(9, 40))]}, read)[0]
    assert found[0].tokens[:2] == (9, 40) and len(found[0].tokens) <= 7
    assert len(set(found[0].tokens)) == len(found[0].tokens)


# -- groups ------------------------------------------------------------------------------------------------------


def groups_twin(
    read: Read, ids: Sequence[int], *, groups: int, width: int, penalty: float, end: int, most: int
) -> list[tuple[float, tuple[int, ...]]]:
    """Vijayakumar's algorithm 1 in plain words: [(score, tokens)], the best first; length penalty 1."""
    running: list[list[tuple[float, tuple[int, ...]]]] = [[(0.0, ())] for _ in range(groups)]
    found: list[list[tuple[float, tuple[int, ...]]]] = [[] for _ in range(groups)]
    open_groups = set(range(groups))
    for step in range(most):
        taken: list[int] = []
        for g in sorted(open_groups):
            options = []
            for total, tokens in running[g]:
                logprobs = read(ids, tokens)[0].log_softmax(0).tolist()
                for token, logprob in enumerate(logprobs):
                    options.append((total + logprob - penalty * taken.count(token), (*tokens, token)))
            options.sort(key=lambda one: -one[0])
            running[g] = [one for one in options if one[1][-1] != end][:width]
            for total, tokens in options[:width]:
                if tokens[-1] == end or step + 1 == most:
                    found[g].append((total / (step + 1), tokens))
            found[g] = sorted(found[g], key=lambda one: -one[0])[:width]
            taken += [tokens[-1] for _, tokens in running[g]]
            if len(found[g]) == width and found[g][-1][0] >= running[g][0][0] / (step + 1):
                open_groups.discard(g)
    return sorted((one for group in found for one in group), key=lambda one: -one[0])


@pytest.mark.parametrize(("groups", "width", "penalty"), [(2, 2, 0.7), (3, 1, 2.0), (2, 1, 0.0), (4, 2, 50.0)])
def test_groups_are_the_slow_twins(read: Read, groups: int, width: int, penalty: float) -> None:
    options = GenerationOptions(
        max_new_tokens=6,
        num_beams=groups * width,
        num_beam_groups=groups,
        diversity_penalty=penalty,
        num_return_sequences=groups * width,
    )
    for ids, answers in zip(PROMPTS, searched(read, options, (19,), PROMPTS), strict=True):
        twin = groups_twin(read, ids, groups=groups, width=width, penalty=penalty, end=19, most=6)
        assert [one.score for one in answers] == pytest.approx([score for score, _ in twin], abs=1e-4)
        if penalty:  # otherwise groups are equal, and so are their answers' scores
            assert tokens_of(answers) == [tokens for _, tokens in twin]
        else:
            assert len({one.tokens for one in answers}) == len(answers) // groups


def test_groups_differ_more_than_beams(read: Read) -> None:
    def firsts(**settings: Any) -> int:
        options = GenerationOptions(max_new_tokens=5, num_beams=4, num_return_sequences=4, **settings)
        return sum(len({t[:1] for t in tokens_of(one)}) for one in searched(read, options, (19,), PROMPTS))

    assert firsts(num_beam_groups=4, diversity_penalty=50.0) == 4 * len(PROMPTS) > firsts()


# -- ends of a search --------------------------------------------------------------------------------------------


def table(*rows: Sequence[float]) -> Read:
    """Scores of the n-th token, whatever was written; the last row goes on for ever."""

    def read(ids: Sequence[int], written: Sequence[int]) -> Any:
        return torch.tensor(rows[min(len(written), len(rows) - 1)]), torch.zeros(1, 1)

    return read


@pytest.mark.parametrize("early", [False, True])
def test_an_early_stop_takes_the_first_answers(early: bool) -> None:
    """Tokens 0 (the end), 1 and 2: twice an end is among the two best, and going on is better both times."""
    options = GenerationOptions(
        num_beams=2, num_return_sequences=2, early_stopping=early, length_penalty=0.0, max_new_tokens=9
    )
    for count_end in (False, True):
        read = table(torch.tensor([-2.0, -0.1, -6.0]).log_softmax(0).tolist())
        (found,) = searched(read, options, (0,), [[5]], count_end=count_end)
        assert [one.ended for one in found] == ([True, True] if early else [False, True])
        assert max(len(one.tokens) for one in found) == (1 if early else 9)


def test_lengths_without_the_end() -> None:
    """The original GLM's rule: an end is no part of the length, and all beams count when the length runs out."""
    read = table([math.log(0.3), math.log(0.5), math.log(0.2)])
    options = GenerationOptions(num_beams=2, num_return_sequences=2, max_new_tokens=2)
    (counted,) = searched(read, options, (0,), [[5]])
    (uncounted,) = searched(read, options, (0,), [[5]], count_end=False)
    assert [(one.tokens, one.finish) for one in counted] == [((1, 1), "length"), ((1,), "end")]
    assert [one.score for one in counted] == pytest.approx([math.log(0.25) / 2, math.log(0.15) / 2])
    assert [one.finish for one in uncounted] == ["length", "length"]
    assert [one.score for one in uncounted] == pytest.approx([math.log(0.25) / 2, math.log(0.1) / 2])


@pytest.mark.parametrize("name", ["beam5_lp0.7_min3_ng3", "beam4_lp1.0"])
def test_the_original_glms_beams(model: Any, commands: Any, recorded: Any, name: str) -> None:
    case = recorded[name]
    options = GenerationOptions(
        num_beams=case["args"]["num_beams"],
        length_penalty=case["args"]["length_penalty"],
        min_new_tokens=case["args"]["min_tgt_length"],
        no_repeat_ngram_size=case["args"]["no_repeat_ngram_size"],
        max_new_tokens=case["tgt_seq_length"],
        suppress_tokens=structural_ids(commands),
    )

    def read(ids: Sequence[int], written: Sequence[int]) -> Any:
        (place,) = slow.places(ids, commands)
        fed = [(token, place, i + 1) for i, token in enumerate((commands.sop, *written))]
        return slow.logprobs(model, ids, fed), torch.zeros(1, 1)

    found = searched(read, options, (commands.eop, commands.eos), case["src"], count_end=False)
    assert [" ".join(map(str, one[0].tokens)) for one in found] == case["pred"]


def test_a_stop_string_ends_an_answer(read: Read) -> None:
    options = GenerationOptions(max_new_tokens=10, num_beams=3, num_return_sequences=3)
    found = searched(read, options, (19,), PROMPTS, stops=lambda tokens: tokens[-1] in (11, 27))
    every = [answer for answers in found for answer in answers]
    assert {one.finish for one in every} == {"stop", "length"}
    for one in every:
        assert not {11, 27} & set(one.tokens[:-1])
        assert (one.tokens[-1] in (11, 27)) == (one.finish == "stop")


def test_beams_enough_for_all_find_all() -> None:
    """Three tokens, 0 the end, two steps: seven answers and no more, whatever `num_return_sequences` asks for."""
    first, second = [0.2, 0.5, 0.3], [0.1, 0.7, 0.2]
    read = table([math.log(p) for p in first], [math.log(p) for p in second])
    options = GenerationOptions(num_beams=9, num_return_sequences=9, max_new_tokens=2, length_penalty=1.3)
    (found,) = searched(read, options, (0,), [[5]])
    every = {(0,): math.log(first[0])}
    every |= {(a, b): math.log(first[a] * second[b]) / 2**1.3 for a in (1, 2) for b in (0, 1, 2)}
    assert tokens_of(found) == sorted(every, key=lambda tokens: -every[tokens])
    assert [one.score for one in found] == pytest.approx(sorted(every.values(), reverse=True))


def test_no_token_allowed_is_an_error_of_that_request_alone(read: Read) -> None:
    def forbids(history: Any, scores: Any) -> Any:
        return scores.masked_fill((history == 45).any(1, keepdim=True), -torch.inf)

    options = GenerationOptions(max_new_tokens=6, num_beams=2)
    search = Beams(options, Setting(device=CPU, end_ids=(19,), processors=[forbids]))
    found = run(search, {0: [ask(0, [7], options, written=(45,)), ask(1, [7], options)]}, read)
    assert isinstance(found[0], ConfigError) and "no token" in str(found[0])
    assert [one.tokens for one in found[1]] == [searched(read, options, (19,), [[7]])[0][0].tokens]


def test_beams_without_a_token_leave_and_the_others_go_on() -> None:
    """After token 1 nothing is allowed: only the beam with token 2 lives, in one row."""

    def forbids(history: Any, scores: Any) -> Any:
        return scores.masked_fill((history == 1).any(1, keepdim=True), -torch.inf)

    options = GenerationOptions(max_new_tokens=3, num_beams=2, num_return_sequences=2)
    search = Beams(options, Setting(device=CPU, end_ids=(), processors=[forbids]))
    search.admit([ask(0, [5], options)])
    first = search.advance(torch.tensor([[-9.0, 2.0, 1.0]]))
    assert (first.rows.tolist(), first.tokens.tolist()) == ([0, 0], [1, 2])
    second = search.advance(torch.tensor([[0.0, 2.0, 1.0], [-9.0, -9.0, 1.0]]))
    assert set(second.rows.tolist()) == {1}


class Wall:
    """A constraint that sees too late that 1 may not come first: a stand-in that remembers dead beginnings."""

    def __init__(self, after: int) -> None:
        self.dead: set[tuple[int, ...]] = set()
        self.after = after

    def __call__(self, history: Any, scores: Any) -> Any:
        scores = scores.clone()
        for row, tokens in enumerate(history.tolist()):
            tokens = tuple(token for token in tokens if token != NOTHING)
            if tokens[:1] == (1,) and len(tokens) >= self.after:
                scores[row] = -torch.inf
            for token in range(scores.shape[1]):
                if (*tokens, token) in self.dead:
                    scores[row, token] = -torch.inf
        return scores

    def backtrack(self, tokens: tuple[int, ...], setbacks: int) -> int:
        if setbacks > 3 or not tokens:
            raise ConfigError("cannot be met")
        self.mark_dead(tokens)
        return len(tokens) - 1

    def mark_dead(self, tokens: tuple[int, ...]) -> None:
        self.dead.add(tokens)


def test_a_dead_end_begins_again_without_it() -> None:
    """Token 1 is by far the first choice of both beams, and nothing may follow it."""
    options = GenerationOptions(max_new_tokens=3, num_beams=2)

    def answer(wall: Any, *rows: Sequence[float]) -> Any:
        fields: dict[str, Any] = {"processors": [wall], "constraint": wall}
        search = Beams(options, Setting(device=CPU, end_ids=(0,), **fields))
        return run(search, {0: [ask(0, [5], options)]}, table(*rows))[0]

    nothing = -torch.inf
    error = answer(Wall(1), [nothing, 5.0, nothing], [0.0, 1.0, 2.0])
    assert isinstance(error, ConfigError) and "no token" not in str(error)
    wall = Wall(2)
    (found,) = answer(wall, [nothing, 5.0, -5.0, -6.0], [nothing, 1.0, 2.0, 3.0], [0.0, nothing, nothing, nothing])
    assert found.tokens == (2, 3) and wall.dead == {(1, 2), (1, 3)}


def test_a_dropped_request_leaves_its_rows(read: Read) -> None:
    options = GenerationOptions(max_new_tokens=8, num_beams=3, no_repeat_ngram_size=2)
    search = Beams(options, setting(options, (19,)))
    requests = [ask(i, ids, options) for i, ids in enumerate(PROMPTS[:3])]
    search.admit(requests)
    move = search.advance(torch.stack([read(one.prompt.ids, ())[0] for one in requests]))
    assert move.rows.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert search.drop(1) == [3, 4, 5] and search.drop(1) == []
    left = [
        (requests[row].prompt.ids, [token]) for row, token in zip(move.rows.tolist(), move.tokens.tolist(), strict=True)
    ]
    left = [one for i, one in enumerate(left) if i not in (3, 4, 5)]
    found = {}
    while left:
        move = search.advance(torch.stack([read(ids, tokens)[0] for ids, tokens in left]))
        found |= {request.number: [one for (one,) in fillings] for request, fillings in move.done}
        pairs = zip(move.rows.tolist(), move.tokens.tolist(), strict=True)
        left = [(left[row][0], [*left[row][1], token]) for row, token in pairs]
    assert [found[0], found[2]] == searched(read, options, (19,), [PROMPTS[0], PROMPTS[2]])


# -- the highest scores ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [7, 5000, 64 * 90])
def test_the_best_are_those_of_topk(width: int) -> None:
    scores = torch.randn(3, width, generator=torch.Generator().manual_seed(1))
    scores[1, 5:] = -torch.inf
    scores[2, -1] = 99.0
    values, places = best(scores, 9)
    expected = scores.topk(min(9, width))
    assert torch.equal(values, expected.values)
    assert torch.equal(places[::2], expected.indices[::2])
    assert torch.equal(scores.gather(1, places), values)
