"""Processors against Hugging Face's of the same meaning, and draws against their distribution."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from transformers.generation import logits_process as theirs

from flagai.generate import processors as ours
from flagai.generate.options import GenerationOptions
from flagai.generate.sampling import draw, stream

V = 30
SCORES = torch.randn(4, V, generator=torch.Generator().manual_seed(0)) * 3
HISTORY = torch.tensor([[1, 2, 3, 1, 2], [4, 4, 4, 4, 4], [7, 8, 7, 9, 7], [5, 6, 5, 6, 5]])


@pytest.mark.parametrize(
    ("our", "their"),
    [
        (ours.RepetitionPenalty(penalty=1.8), theirs.RepetitionPenaltyLogitsProcessor(1.8)),
        (ours.NoRepeatNgram(size=1), theirs.NoRepeatNGramLogitsProcessor(1)),
        (ours.NoRepeatNgram(size=2), theirs.NoRepeatNGramLogitsProcessor(2)),
        (ours.NoRepeatNgram(size=3), theirs.NoRepeatNGramLogitsProcessor(3)),
        (ours.NoRepeatNgram(size=6), theirs.NoRepeatNGramLogitsProcessor(6)),
        (ours.Temperature(value=0.7), theirs.TemperatureLogitsWarper(0.7)),
        (ours.TopK(k=5), theirs.TopKLogitsWarper(5)),
        (ours.TopK(k=50), theirs.TopKLogitsWarper(50)),
        (ours.TopP(p=0.8), theirs.TopPLogitsWarper(0.8)),
        (ours.TopP(p=1e-6), theirs.TopPLogitsWarper(1e-6)),
        (ours.MinP(share=0.1), theirs.MinPLogitsWarper(0.1)),
        (ours.Forbidden(ids=torch.tensor([3, 9])), theirs.SuppressTokensLogitsProcessor([3, 9])),
        (
            ours.LeastLength(length=6, end_ids=torch.tensor([2, 3])),
            theirs.MinNewTokensLengthLogitsProcessor(0, 6, [2, 3]),
        ),
        (
            ours.LeastLength(length=5, end_ids=torch.tensor([2, 3])),
            theirs.MinNewTokensLengthLogitsProcessor(0, 5, [2, 3]),
        ),
    ],
    ids=lambda one: type(one).__name__,
)
def test_as_hugging_face(our: Any, their: Any) -> None:
    expected = their(HISTORY, SCORES.clone())
    before = SCORES.clone()
    assert torch.equal(our(HISTORY, SCORES), expected)
    assert torch.equal(SCORES, before)


def test_the_whole_chain_is_hugging_faces() -> None:
    options = GenerationOptions(
        do_sample=True,
        repetition_penalty=1.3,
        no_repeat_ngram_size=2,
        suppress_tokens=(11,),
        min_new_tokens=9,
        temperature=1.5,
        top_k=12,
        top_p=0.9,
        min_p=0.02,
    )
    made = ours.make_processors(options, end_ids=(0,), device=torch.device("cpu"))
    chain: Any = theirs.LogitsProcessorList(
        [
            theirs.RepetitionPenaltyLogitsProcessor(1.3),
            theirs.NoRepeatNGramLogitsProcessor(2),
            theirs.SuppressTokensLogitsProcessor([11]),
            theirs.MinNewTokensLengthLogitsProcessor(0, 9, [0]),
            theirs.TemperatureLogitsWarper(1.5),
            theirs.TopKLogitsWarper(12),
            theirs.TopPLogitsWarper(0.9),
            theirs.MinPLogitsWarper(0.02),
        ]
    )
    assert torch.equal(ours.apply(made, HISTORY, SCORES), chain(HISTORY, SCORES.clone()))


@pytest.mark.parametrize("seed", range(20))
def test_any_chain_is_hugging_faces(seed: int) -> None:
    """Options at random, scores with forbidden tokens among them, histories with repeats."""
    chance, random_stream = random.Random(seed), torch.Generator().manual_seed(seed)
    penalty, size, temperature = chance.choice([0.7, 1.0, 2.5]), chance.randrange(4), chance.choice([0.3, 1.0, 4.0])
    k, p, share = chance.choice([0, 1, 7, V]), chance.choice([0.2, 0.95, 1.0]), chance.choice([0.0, 0.05, 0.6])
    scores = torch.randn(6, V, generator=random_stream) * chance.choice([0.1, 2, 20])
    scores[:, chance.randrange(V)] = -torch.inf
    history = torch.randint(V if seed % 2 else 4, (6, 9), generator=random_stream)
    options = GenerationOptions(
        do_sample=True,
        repetition_penalty=penalty,
        no_repeat_ngram_size=size,
        temperature=temperature,
        top_k=k,
        top_p=p,
        min_p=share,
    )
    chain: Any = theirs.LogitsProcessorList()
    chain += [theirs.RepetitionPenaltyLogitsProcessor(penalty)] if penalty != 1 else []
    chain += [theirs.NoRepeatNGramLogitsProcessor(size)] if size else []
    chain += [theirs.TemperatureLogitsWarper(temperature)] if temperature != 1 else []
    chain += [theirs.TopKLogitsWarper(k)] if k else []
    chain += [theirs.TopPLogitsWarper(p)] if p < 1 else []
    chain += [theirs.MinPLogitsWarper(share)] if share else []
    made = ours.make_processors(options, end_ids=(0,), device=torch.device("cpu"))
    assert torch.equal(ours.apply(made, history, scores), chain(history, scores.clone()))


@pytest.mark.parametrize(
    "processor",
    [
        ours.RepetitionPenalty(penalty=2.0),
        *(ours.NoRepeatNgram(size=size) for size in (1, 2, 3)),
        ours.LeastLength(length=4, end_ids=torch.tensor([2])),
    ],
)
def test_rows_of_different_lengths(processor: Callable[..., torch.Tensor]) -> None:
    """A row filled up with NOTHING is as the row alone."""
    chance = random.Random(1)
    rows = [[chance.randrange(3) for _ in range(length)] for length in (0, 1, 3, 8)]
    together = torch.tensor([[ours.NOTHING] * (8 - len(row)) + row for row in rows])
    expected = [processor(torch.tensor([row], dtype=torch.long), SCORES[i : i + 1]) for i, row in enumerate(rows)]
    assert torch.equal(processor(together, SCORES), torch.cat(expected))


def test_nothing_asked_nothing_done() -> None:
    assert ours.make_processors(GenerationOptions(), end_ids=(1,), device=torch.device("cpu")) == []
    assert ours.make_processors(GenerationOptions(do_sample=True), end_ids=(1,), device=torch.device("cpu")) == []


def test_draws_follow_the_distribution() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0, -torch.inf]])
    count = 20000
    random_stream = stream(0, 1)
    tokens = torch.stack([draw(scores, [random_stream])[0] for _ in range(count)])
    observed = torch.bincount(tokens, minlength=5).tolist()
    assert observed[4] == 0
    expected = (scores.double().softmax(1)[0, :4] * count).tolist()
    assert stats.chisquare(observed[:4], expected).pvalue > 0.001
    assert stats.chisquare(observed[:4], [expected[1], expected[0], *expected[2:]]).pvalue < 1e-6  # it can fail


def test_a_stream_is_its_own() -> None:
    scores = SCORES.clone()
    together = draw(scores, [stream(7, i) for i in range(4)])
    alone = torch.cat([draw(scores[i : i + 1], [stream(7, i)]) for i in range(4)])
    assert torch.equal(together, alone)
    numbers = {torch.rand((), generator=stream(*key)).item() for key in ((1,), (2,), (1, 0), (1, 1), (11,), (1, 1, 0))}
    assert len(numbers) == 6
