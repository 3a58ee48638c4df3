"""How the documents of a corpus become samples, and corpora mixtures."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tests.data.corpora import CLS, END, EOS, LETTERS, ROWS, build, corpus_of, encode, framing, texts_of, write

from flagai.data.corpus_mix import PERIOD, Chain, Mixture
from flagai.data.corpus_samples import CorpusSamples, joined, windows
from flagai.errors import ConfigError


@pytest.mark.parametrize("begun", [0.0, 0.4, 1.0])
def test_windows_cover_a_document_and_end_with_sentences(begun):
    for text in texts_of(200, 150):
        ids = np.array(encode([text])[0])
        how = framing(20)
        cuts = list(windows(ids, how, begun=begun))
        assert cuts[0][0] == 0 and all(a[1] == b[0] for a, b in pairwise(cuts))
        assert cuts[-1][1] in (len(ids), len(ids) + 1)
        room, limit = 19, 19 if len(ids) + 1 <= 19 else 9 + int(begun * 10)
        for start, stop in cuts:
            assert 0 < stop - start <= limit and start < len(ids)
            if stop < len(ids) and stop - start < limit:
                assert ids[stop - 1] == END and stop - start > limit // 2
            elif stop < len(ids):  # full: it ends a sentence, or there was none to end in its second half
                assert ids[stop - 1] == END or END not in ids[start + limit // 2 : stop]
            limit = room


def content(samples) -> list[int]:
    """All tokens of an epoch that are not special, sorted."""
    ids = np.concatenate([samples[i].ids for i in range(len(samples))])
    return sorted(ids[ids > EOS].tolist())


@pytest.mark.parametrize("join", [False, True])
def test_an_epoch_takes_every_token_once(tmp_path, join):
    corpus = corpus_of(texts_of(80, 70), tmp_path / "corpus")
    source = CorpusSamples(corpus, framing(24, join=join), seed=1)
    everything = sorted(np.concatenate([corpus[i] for i in range(len(corpus))]).tolist())
    for epoch in (0, 1, 5):
        samples = source.epoch(epoch)
        assert content(samples) == everything
        assert samples.lengths.tolist() == [len(samples[i].ids) for i in range(len(samples))]
        assert samples.lengths.max() <= 24
        assert all(samples[i].ids[0] == CLS for i in range(len(samples)))
        assert sum((samples[i].ids == EOS).sum() for i in range(len(samples))) <= len(corpus)


@pytest.mark.parametrize("join", [False, True])
def test_samples_are_a_function_of_seed_epoch_and_index(tmp_path, join):
    corpus = corpus_of(texts_of(60, 70), tmp_path / "corpus")

    def ids(seed: int, epoch: int, **options) -> list[list[int]]:
        samples = CorpusSamples(corpus, framing(24, join=join), seed=seed, **options).epoch(epoch)
        return [samples[i].ids.tolist() for i in range(len(samples))]

    assert ids(1, 3) == ids(1, 3)
    assert ids(1, 3) != ids(1, 4) and ids(1, 3) != ids(2, 3)
    assert ids(1, 3, vary=False) == ids(1, 4, vary=False)
    used = CorpusSamples(corpus, framing(24, join=join), seed=1)
    for epoch in (0, 7, 3):
        used.epoch(epoch)
    assert [used.epoch(3)[i].ids.tolist() for i in range(len(used.epoch(3)))] == ids(1, 3)


def test_short_documents_stay_as_they_are(tmp_path):
    corpus = build(write(tmp_path / "a.jsonl", ROWS), tmp_path / "corpus")
    samples = CorpusSamples(corpus, framing(24), seed=0).epoch(9)
    assert [samples[i].ids.tolist() for i in range(3)] == [[CLS, *corpus[i].tolist(), EOS] for i in range(3)]
    assert samples[0].predicted.tolist() == [False] * 4 + [True] * (len(corpus[0]) - 3 + 1)
    assert samples[1].predicted.tolist() == [False] + [True] * (len(corpus[1]) + 1)


def test_a_prompt_longer_than_a_window_is_not_predicted_anywhere(tmp_path):
    corpus = build(write(tmp_path / "a.jsonl", [{"prompt": "a" * 30, "text": "b" * 10}]), tmp_path / "corpus")
    samples = CorpusSamples(corpus, framing(16), seed=0, vary=False).epoch(0)
    predicted = np.concatenate([samples[i].ids[samples[i].predicted] for i in range(len(samples))])
    assert predicted.tolist() == [LETTERS["b"]] * 10 + [EOS]


def test_part_of_a_corpus(tmp_path):
    corpus = corpus_of(texts_of(30, 40), tmp_path / "corpus")
    chosen = np.array([2, 5, 17])
    some = CorpusSamples(corpus, framing(60), seed=0, documents=chosen)
    assert [some.epoch(0)[i].ids[1:-1].tolist() for i in range(3)] == [corpus[i].tolist() for i in chosen]
    assert some.hash != CorpusSamples(corpus, framing(60), seed=0).hash


def test_joining_equals_its_slow_twin():
    chance = random.Random(3)
    for _ in range(50):
        sizes = [chance.randint(1, 30) for _ in range(chance.randint(1, 40))]
        firsts, filled = [0], 0
        for at, size in enumerate(sizes):
            if filled + size > 32 and filled:
                firsts.append(at)
                filled = 0
            filled += size
        assert joined(np.array(sizes), 32).tolist() == [*firsts, len(sizes)]


def test_samples_need_room():
    with pytest.raises(ConfigError, match="no room"):
        framing(7)


@pytest.fixture
def three(tmp_path: Path) -> list[CorpusSamples]:
    """Three corpora of 5, 40 and 200 documents whose samples name their corpus by their first letter."""
    made = []
    for letter, count in zip("abc", (5, 40, 200), strict=True):
        texts = [
            letter + "".join(f"{i:03d}").translate(str.maketrans("0123456789", "qrstuvwxyz")) for i in range(count)
        ]
        made.append(CorpusSamples(corpus_of(texts, tmp_path / f"corpus-{letter}"), framing(24), seed=0))
    return made


def test_a_mixture_keeps_its_shares_at_every_position(three):
    mixture = Mixture(three, [1, 2, 5], seed=0)
    which, numbers = mixture.locate(np.arange(3 * PERIOD))
    for at, share in enumerate((1 / 8, 2 / 8, 5 / 8)):
        counts = (which == at).cumsum()
        assert np.abs(counts - share * np.arange(1, len(which) + 1)).max() <= 1.5
        assert numbers[which == at].tolist() == list(range((which == at).sum()))  # none skipped, none twice
    some = np.array([0, 1, 77, PERIOD - 1, PERIOD, 2 * PERIOD + 5])
    assert all(np.array_equal(a, b[some]) for a, b in zip(mixture.locate(some), (which, numbers), strict=True))


def test_a_mixture_gives_each_source_evenly_and_in_order_of_its_epochs(three):
    mixture = Mixture(three, [1, 1, 2], seed=4)
    seen: list[tuple[int, ...]] = []
    for epoch in range(4):
        samples = mixture.epoch(epoch)
        assert len(samples) == 245
        assert samples.lengths.tolist() == [len(samples[i].ids) for i in range(245)]
        seen += [tuple(samples[i].ids.tolist()) for i in range(245)]
    for letter, count in zip("abc", (5, 40, 200), strict=True):
        mine = [ids for ids in seen if ids[1] == LETTERS[letter]]
        assert len(mine) == pytest.approx(980 * (0.5 if letter == "c" else 0.25), abs=2)
        for start in range(0, len(mine) - count, count):  # a whole pass holds every sample once
            assert len(set(mine[start : start + count])) == count
    again = Mixture(three, [1, 1, 2], seed=4).epoch(3)
    assert [tuple(again[i].ids.tolist()) for i in range(245)] == seen[-245:]
    other = Mixture(three, [1, 1, 2], seed=5).epoch(3)
    assert [tuple(other[i].ids.tolist()) for i in range(245)] != seen[-245:]


def test_a_mixture_refuses_what_cannot_be_meant(three):
    for weights in ([1, 2], [1, 0, 1], [1, 1, -1]):
        with pytest.raises(ConfigError, match="one weight above 0"):
            Mixture(three, weights, seed=0)
    with pytest.raises(ConfigError, match="vanishes"):
        Mixture(three, [1, 1e9, 1e9], seed=0)
    hashes = {Mixture(three, weights, seed=0).hash for weights in ([1, 1, 1], [1, 1, 2])}
    assert len(hashes) == 2


def test_a_chain_is_one_after_another(three):
    chain = Chain(three)
    wanted = [source.epoch(0)[i].ids.tolist() for source in three for i in range(len(source.epoch(0)))]
    assert [chain.epoch(5)[i].ids.tolist() for i in range(len(chain))] == wanted
    assert chain.lengths.tolist() == [len(ids) for ids in wanted]
