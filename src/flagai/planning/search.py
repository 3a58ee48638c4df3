"""The smallest change of settings that makes a run fit. Knows no bytes: it asks for them, cheapest change first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any, Final

from flagai.errors import ConfigError, ModelError
from flagai.planning.layouts import SINGLE, Layout, changed
from flagai.planning.results import Change

Peak = Callable[[Layout], int]
"""bytes of the neediest process of a layout; ModelError where it cannot be"""

_HALVING, _RECOMPUTE, _BF16, _SHARDS, _OFFLOAD, _TENSOR = 1.0, 2.5, 3.0, 4.0, 5.0, 6.0
"""prices: smaller parts of a batch cost least (same numbers, a little time), then a third more time, other numbers,
other processes, slow memory, and messages inside every layer"""
_MOST_ASKED: Final = 60

_Option = tuple[float, Mapping[str, Any], int]
_NOTHING: Final[_Option] = (0.0, {}, 0)


def smallest(
    layout: Layout, peak: Peak, at_least: Peak, memory: int, *, processes: int, parts: int, kind: str
) -> Change:
    """The cheapest change whose peak is within `memory`, or the one that needs least where none is.

    Args:
        at_least: bytes that a layout needs whatever its batches are; quick to know.
        processes: those there are.
        parts: into how many parts a batch may be cut at most.
        kind: "cpu" or "cuda".
    """
    best: Change | None = None
    for asked, candidate in enumerate(_candidates(layout, processes, parts, kind)):
        if asked >= _MOST_ASKED:
            break
        try:
            lower = at_least(candidate)
            found = peak(candidate) if lower <= memory else lower
        except ModelError:
            continue
        change = Change(
            settings=candidate.changes,
            processes=candidate.processes,
            peak=found,
            found=found <= memory and lower <= memory,
            needed=bool(candidate.changes),
        )
        if change.found:
            return change
        if best is None or found < best.peak:
            best = change
    assert best is not None, "the run itself is a candidate"
    return best


def _candidates(layout: Layout, processes: int, parts: int, kind: str) -> Iterator[Layout]:
    """Layouts that can be, from the cheapest on; the first is the user's own."""
    options = sorted(product(_cuts(layout, parts), *_switches(layout), _spreads(layout, processes, kind)), key=_price)
    seen: set[str] = set()
    for settings in options:
        merged: dict[str, Any] = {}
        count = layout.processes
        for _, values, number in settings:
            merged |= values
            count = number or count
        try:
            made = changed(layout, merged, processes=count)
            _ = made.sizes
        except ConfigError:
            continue
        if made.key() not in seen:
            seen.add(made.key())
            yield made


def _price(options: tuple[_Option, ...]) -> float:
    return sum(price for price, _, _ in options)


def _cuts(layout: Layout, parts: int) -> list[_Option]:
    """The batch in twice as many parts, and so on."""
    now = layout.config.train.gradient_accumulation_steps
    cuts: list[_Option] = [_NOTHING]
    while now * 2 <= parts:
        now *= 2
        cuts.append((_HALVING * len(cuts), {"train.gradient_accumulation_steps": now}, 0))
    return cuts


def _switches(layout: Layout) -> list[list[_Option]]:
    recompute: list[_Option] = [_NOTHING]
    bf16: list[_Option] = [_NOTHING]
    if not layout.parallel.recompute:
        recompute.append((_RECOMPUTE, {"parallel.recompute": True}, 0))
    if layout.config.train.precision == "fp32":
        bf16.append((_BF16, {"train.precision": "bf16"}, 0))
    return [recompute, bf16]


def _spreads(layout: Layout, processes: int, kind: str) -> list[_Option]:
    """Other ways over the processes that there are."""
    if processes == 1:
        return [_NOTHING]
    plain = {key: value for key, value in SINGLE.items() if key != "parallel.strategy"}
    shards = {**plain, "parallel.strategy": "fsdp"}
    spreads: list[_Option] = [_NOTHING, (_SHARDS, shards, processes)]
    if kind != "cpu":
        spreads.append((_SHARDS + _OFFLOAD, {**shards, "parallel.offload": True}, processes))
    for tensor in range(2, processes + 1):
        if processes % tensor == 0:
            strategy = "ddp" if tensor == processes else "fsdp"
            both = {**plain, "parallel.strategy": strategy, "parallel.tensor": tensor}
            spreads.append((_TENSOR, both, processes))
    return spreads
