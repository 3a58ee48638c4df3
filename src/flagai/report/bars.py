"""Histograms as inline SVG: bars side by side in each bin. It knows bins and counts, not what is counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from flagai.report.markup import Html, el, join
from flagai.report.numbers import is_number, nice_ticks, plain, tick

_WIDTH, _HEIGHT = 420, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 10, 36
_MOST_LABELS: Final = 8


def bar_chart(title: str, edges: Sequence[float], counts: Mapping[str, Sequence[float]], *, x_name: str) -> Html:
    """A figure with one bar a bin and series; `edges` [B + 1], `counts` name → [B]; empty where there is nothing."""
    rows = {name: row for name, row in counts.items() if len(row) == len(edges) - 1 and all(map(is_number, row))}
    most = max((max(row, default=0) for row in rows.values()), default=0)
    if not most or len(edges) < 2 or not all(map(is_number, edges)) or edges[-1] <= edges[0]:
        return Html("")
    bars = [_bars(edges, row, at, len(rows), most) for at, row in enumerate(rows.values())]
    picture = el(
        "svg", _axes(edges, most, x_name), bars,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=f"{title}: {', '.join(rows)}",
    )  # fmt: skip
    names = [el("li", el("i", class_=f"c{at + 1}"), name) for at, name in enumerate(rows)]
    legend = el("ul", names, class_="legend") if len(rows) > 1 else None
    return el("figure", el("figcaption", el("b", title), legend), picture, class_="chart")


def _x(edges: Sequence[float], value: float) -> float:
    return _LEFT + (value - edges[0]) / (edges[-1] - edges[0]) * (_WIDTH - _LEFT - _RIGHT)


def _y(most: float, value: float) -> float:
    return _HEIGHT - _BOTTOM - value / (most * 1.05) * (_HEIGHT - _TOP - _BOTTOM)


def _bars(edges: Sequence[float], row: Sequence[float], at: int, series: int, most: float) -> Html:
    """The bars of one series; each says its bin and its count to who points at it."""
    parts = []
    for low, high, count in zip(edges, edges[1:], row, strict=False):
        room = (_x(edges, high) - _x(edges, low)) * 0.86
        width, start = room / series, _x(edges, low) + (_x(edges, high) - _x(edges, low)) * 0.07
        top = _y(most, count)
        parts.append(
            el("rect", el("title", f"{tick(low)} … {tick(high)}: {plain(count)}"), class_=f"column c{at + 1}",
               x=f"{start + at * width:.1f}", y=f"{top:.1f}", width=f"{width:.1f}",
               height=f"{_HEIGHT - _BOTTOM - top:.1f}")
        )  # fmt: skip
    return join(parts)


def _axes(edges: Sequence[float], most: float, x_name: str) -> Html:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in nice_ticks(0, most, 4):
        y = f"{_y(most, value):.1f}"
        parts.append(el("line", class_="grid", x1=_LEFT, x2=right, y1=y, y2=y))
        parts.append(el("text", tick(value), class_="tick end", x=_LEFT - 6, y=y, dy="0.35em"))
    step = -(-(len(edges) - 1) // _MOST_LABELS)
    for value in edges[::step]:
        parts.append(el("text", tick(value), class_="tick middle", x=f"{_x(edges, value):.1f}", y=bottom + 16))
    parts.append(el("line", class_="axis", x1=_LEFT, x2=right, y1=bottom, y2=bottom))
    parts.append(el("text", x_name, class_="tick end name", x=right, y=_HEIGHT - 4))
    return join(parts)
