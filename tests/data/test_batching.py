"""Batches: a pure function of (seed, epoch, step, data hash), within budget, nothing lost."""

from __future__ import annotations

import numpy as np
import pytest

from flagai.data.batching import BatchPlan, cut, cut_by_tokens, pad
from flagai.errors import ConfigError

LENGTHS = np.random.default_rng(0).integers(3, 60, 500).tolist()


def plan(**changes):
    options = {"batch_size": 32, "seed": 1, "data_hash": "abc"} | changes
    return BatchPlan(LENGTHS, **options)


@pytest.mark.parametrize("budget", [{"batch_size": 32}, {"batch_size": None, "batch_tokens": 512}])
def test_an_epoch_holds_every_example_once(budget):
    steps = plan(**budget).epoch(3)
    assert sorted(np.concatenate(steps).tolist()) == list(range(500))


def test_batch_tokens_bounds_count_times_longest():
    p = plan(batch_size=None, batch_tokens=512)
    for indices in p.epoch(0):
        assert p.fill(indices).slots <= 512


def test_seeking_gives_what_walking_gives():
    walked = plan(batch_size=None, batch_tokens=300)
    steps = [walked.step(k).tolist() for k in range(walked.num_steps(0) + walked.num_steps(1))]
    for k in (0, 7, walked.num_steps(0), len(steps) - 1):
        assert plan(batch_size=None, batch_tokens=300).step(k).tolist() == steps[k]


def test_order_depends_on_seed_epoch_and_data():
    first = [b.tolist() for b in plan().epoch(0)]
    assert first == [b.tolist() for b in plan().epoch(0)]
    for other in (plan(seed=2).epoch(0), plan(data_hash="x").epoch(0), plan().epoch(1)):
        assert first != [b.tolist() for b in other]


def test_global_random_state_has_no_say():
    np.random.seed(1)
    first = plan().epoch(0)
    np.random.seed(2)
    assert all((a == b).all() for a, b in zip(first, plan().epoch(0), strict=True))


def test_buckets_pad_less_than_random_batches():
    p = plan()
    bucketed = sum(p.fill(b).slots for b in p.epoch(0))
    order = np.random.default_rng(0).permutation(500)
    randomly = sum(p.fill(order[i : i + 32]).slots for i in range(0, 500, 32))
    assert bucketed < 0.7 * randomly


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_and_accumulation_only_cut_the_list(accumulation, ranks):
    indices = plan().step(5)
    parts = [part for rank in range(ranks) for part in cut(indices, accumulation=accumulation, axis=(rank, ranks))]
    assert sorted(np.concatenate(parts).tolist()) == sorted(indices.tolist())


def test_a_small_batch_has_no_empty_micro_batch():
    assert [len(part) for part in cut(np.arange(2), accumulation=4)] == [1, 1]


def test_locate_counts_epochs_of_changing_length():
    p = plan(batch_size=None, batch_tokens=300)
    assert p.locate(p.num_steps(0)) == (1, 0)
    assert p.locate(p.num_steps(0) - 1) == (0, p.num_steps(0) - 1)


def test_an_example_beyond_the_budget_is_named():
    with pytest.raises(ConfigError, match=r"train\.batch_tokens: an example of \d+ tokens"):
        plan(batch_size=None, batch_tokens=10)


@pytest.mark.parametrize("budget", [{"batch_size": None}, {"batch_size": 4, "batch_tokens": 100}])
def test_exactly_one_budget(budget):
    with pytest.raises(ConfigError, match="exactly one"):
        plan(**budget)


def test_cut_by_tokens_cuts_greedily():
    lengths = np.array([1, 2, 2, 5, 9])
    assert [b.tolist() for b in cut_by_tokens(np.arange(5), lengths, 10)] == [[0, 1, 2], [3], [4]]


def test_pad():
    assert pad([[1], [2, 3]], 0).tolist() == [[1, 0], [2, 3]]
    assert pad([[1]], 7, length=3).tolist() == [[1, 7, 7]]
