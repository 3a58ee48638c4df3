"""The cache of rows beside transformers' own, which makes new tensors; and that it does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from flagai.generate.writers.batch import Columns
from flagai.generate.writers.caches import RowCache

HEADS, DIM, LAYERS = 2, 3, 2


def states(rows: int, columns: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer; values are wider, as some models have them."""
    random = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(rows, HEADS, columns, DIM, generator=random),
            torch.randn(rows, HEADS, columns, DIM + 1, generator=random),
        )
        for _ in range(LAYERS)
    ]


def put(cache: RowCache | DynamicCache, new: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    return [cache.update(keys, values, layer) for layer, (keys, values) in enumerate(new)]


def held(cache: RowCache | DynamicCache) -> list[Tensor]:
    return [one for layer in cache.layers for one in (layer.keys, layer.values) if one is not None]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) == 2 * LAYERS and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_it_holds_what_transformers_own_holds() -> None:
    ours, theirs = RowCache(), DynamicCache()
    for step, columns in enumerate([5, *[1] * 150]):  # past what the first buffer has room for
        new = states(3, columns, seed=step)
        for (a, b), (c, d) in zip(put(ours, new), put(theirs, new), strict=True):
            assert torch.equal(a, c) and torch.equal(b, d)
        assert ours.get_seq_length() == theirs.get_seq_length() == 5 + step
        assert ours.get_mask_sizes(1, 0) == theirs.get_mask_sizes(1, 0)
        if step % 30 == 29:
            rows = [2, 0, 0]
            ours.select(rows, torch.device("cpu"))
            theirs.batch_select_indices(torch.tensor(rows))
            assert same(held(ours), held(theirs))


def test_a_token_does_not_move_the_others() -> None:
    cache = RowCache()
    put(cache, states(2, 5))
    places = {one.data_ptr() for one in held(cache)}
    for step in range(60):
        put(cache, states(2, 1, seed=step))
        assert {one.data_ptr() for one in held(cache)} == places
    cache.select([1, 0], torch.device("cpu"))
    assert {one.data_ptr() for one in held(cache)} == places


@pytest.mark.parametrize("rows", [[0], [2], [1, 0, 2], [2, 2, 1], [0, 1, 1, 2, 2, 0, 1], [0, 1, 2]])
def test_rows_are_selected_and_go_on(rows: list[int]) -> None:
    ours, theirs = RowCache(), DynamicCache()
    for cache in (ours, theirs):
        put(cache, states(3, 5))
    ours.select(rows, torch.device("cpu"))
    theirs.batch_select_indices(torch.tensor(rows))
    assert same(held(ours), held(theirs))
    new = states(len(rows), 1, seed=9)
    for (a, b), (c, d) in zip(put(ours, new), put(theirs, new), strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)


@pytest.mark.parametrize("grows", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("widths", [(5, 2), (2, 5), (4, 4), (3, 200)])
def test_rows_that_join_are_filled_up_on_the_other_side(side: str, widths: tuple[int, int], grows: bool) -> None:
    first, second = (RowCache(grows=grows, side=side) for _ in widths)  # type: ignore[arg-type]
    old, new = states(2, widths[0], seed=1), states(3, widths[1], seed=2)
    put(first, old)
    put(second, new)
    first.join(second)
    width = max(widths)
    for layer, ours, theirs in zip(first.layers, old, new, strict=True):
        for found, a, b in zip((layer.keys, layer.values), ours, theirs, strict=True):
            assert found is not None and found.shape[:3] == (5, HEADS, width) and bool(found.isfinite().all())
            for part, whole in ((a, found[:2]), (b, found[2:])):
                n = part.shape[2]
                assert torch.equal(whole[:, :, :n] if side == "left" else whole[:, :, width - n :], part)


def test_columns_that_none_needs_are_dropped_and_used_again() -> None:
    cache = RowCache()
    new = states(2, 6)
    put(cache, new)
    cache.drop_columns(4)
    assert cache.get_seq_length() == 2
    assert same(held(cache), [one[:, :, 4:] for pair in new for one in pair])
    put(cache, states(2, 1, seed=1))
    longer = RowCache()
    put(longer, states(1, 6, seed=2))
    places = {one.data_ptr() for one in held(cache)}
    cache.join(longer)
    assert cache.get_seq_length() == 6
    assert same([one[:2, :, 3:5] for one in held(cache)], [one[:, :, 4:] for pair in new for one in pair])
    assert places.isdisjoint(one.data_ptr() for one in held(cache))


def test_what_transformers_crops_is_gone() -> None:
    cache = RowCache()
    new = states(2, 6)
    put(cache, new)
    cache.crop(-2)
    assert same(held(cache), [one[:, :, :4] for pair in new for one in pair])
    put(cache, states(2, 1, seed=1))
    assert cache.get_seq_length() == 5


def test_columns_know_who_has_a_token_where() -> None:
    device = torch.device("cpu")
    columns = Columns([2, 4], device)
    mask = columns.real()
    assert mask is not None and mask.tolist() == [[False, False, True, True], [True] * 4]
    assert columns.positions().tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert columns.next_positions().tolist() == [[2], [4]]
    columns.width += 1
    columns.join(Columns([7, 1], device))
    assert (columns.width, columns.pads, columns.even) == (7, [4, 2, 0, 6], False)
    assert columns.next_positions().tolist() == [[3], [5], [7], [1]]
    assert columns.select([0, 1, 1]) == 2
    assert (columns.width, columns.pads) == (5, [2, 0, 0])
    assert columns.next_positions().tolist() == [[3], [5], [5]]
    more = columns.real(more=1)
    assert more is not None and more.tolist() == [[False, False, True, True, True, True], [True] * 6, [True] * 6]
    assert columns.select([2, 1]) == 0
    assert columns.even and columns.real() is None and columns.next_positions().tolist() == [[5], [5]]
