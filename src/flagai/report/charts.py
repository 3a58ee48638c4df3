"""Line charts and interval marks as inline SVG. It knows series of numbers, not what they mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from flagai.report.markup import Html, el, join
from flagai.report.numbers import nice_ticks, tick

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 10, 36
_MOST_POINTS: Final = 400


@dataclass(frozen=True, kw_only=True)
class Series:
    """A named line. `color` 1, 2 or 3; `faint` for raw values behind a smoothed line; `dots` mark the points."""

    name: str
    points: Points
    color: int = 1
    faint: bool = False
    dots: bool = False


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Data units → pixels."""

    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x0) / (self.x1 - self.x0) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (_HEIGHT - _TOP - _BOTTOM)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_name: str,
    from_zero: bool = False,
    unit: str = "",
    mark: str = "",
    mark_at: tuple[float, float] | None = None,
) -> Html:
    """A figure with axes, ticks, legend and one line a series; `mark_at` rings one point and calls it `mark`."""
    series = [s for s in series if s.points]
    if not series:
        return Html("")
    frame = _frame(series, from_zero)
    shapes = [_line(s, frame) for s in reversed(series)]
    ring = _ring(frame, mark_at, mark) if mark_at else None
    label = f"{title}: " + ", ".join(s.name for s in series)
    picture = el(
        "svg", _axes(frame, x_name, unit), shapes, ring, el("line", class_="cursor", y1=_TOP, y2=_HEIGHT - _BOTTOM),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=label, data_series=_for_hover(series, frame, unit),
    )  # fmt: skip
    return el(
        "figure", el("figcaption", el("b", title), _legend(series)), picture, el("output", "\u00a0"), class_="chart"
    )


def smooth(points: Points) -> list[tuple[float, float]]:
    """Exponential moving average over about a twentieth of the points, without the bias towards the first one."""
    keep = 1 - 2 / (max(1, len(points) // 20) + 1)
    total = weight = 0.0
    found = []
    for x, y in points:
        total, weight = keep * total + y, keep * weight + 1
        found.append((x, total / weight))
    return found


def whisker(low: float, value: float, high: float, *, of: tuple[float, float], baseline: float | None = None) -> Html:
    """An interval as a line with a dot on the scale `of`, for a table cell."""
    width, height = 120, 16

    def at(number: float) -> str:
        return f"{6 + (min(max(number, of[0]), of[1]) - of[0]) / ((of[1] - of[0]) or 1) * (width - 12):.1f}"

    return el(
        "svg",
        el("line", class_="rail", x1=6, x2=width - 6, y1=8, y2=8),
        el("line", class_="span", x1=at(low), x2=at(high), y1=8, y2=8),
        el("line", class_="base", x1=at(baseline), x2=at(baseline), y1=1, y2=15) if baseline is not None else None,
        el("circle", class_="dot", cx=at(value), cy=8, r=4),
        class_="whisker", viewBox=f"0 0 {width} {height}", width=width, height=height, aria_hidden="true",
    )  # fmt: skip


def _frame(series: Sequence[Series], from_zero: bool) -> _Frame:
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points]
    x0, x1 = min(xs), max(xs)
    if 0 <= x0 <= x1 / 2 or x0 == x1:
        # From the start of the run, so that charts of one run share their axis; not so for one that was continued.
        x0 = min(0.0, x0 - 1)
    low, high = min(ys), max(ys)
    if from_zero and low >= 0:
        return _Frame(x0=x0, x1=x1, y0=0.0, y1=high * 1.05 or 1.0)
    pad = (high - low) * 0.12 or abs(high) * 0.05 or 1.0
    return _Frame(x0=x0, x1=x1, y0=low - pad, y1=high + pad)


def _axes(frame: _Frame, x_name: str, unit: str) -> Html:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in nice_ticks(frame.y0, frame.y1):
        y = f"{frame.y(value):.1f}"
        parts.append(el("line", class_="grid", x1=_LEFT, x2=right, y1=y, y2=y))
        parts.append(el("text", tick(value) + unit, class_="tick end", x=_LEFT - 6, y=y, dy="0.35em"))
    ticks = nice_ticks(frame.x0, frame.x1)
    for value in ticks:
        x = frame.x(value)
        parts.append(el("line", class_="axis", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=bottom, y2=bottom + 4))
        parts.append(el("text", tick(value), class_="tick middle", x=f"{x:.1f}", y=bottom + 16))
    parts.append(el("line", class_="axis", x1=_LEFT, x2=right, y1=bottom, y2=bottom))
    parts.append(el("text", x_name, class_="tick end name", x=right, y=_HEIGHT - 4))
    return join(parts)


def _line(series: Series, frame: _Frame) -> Html:
    pixels = [(frame.x(x), frame.y(y)) for x, y in _thinned(series.points)]
    style = f"line c{series.color}" + (" faint" if series.faint else "")
    parts = [el("polyline", class_=style, points=" ".join(f"{x:.1f},{y:.1f}" for x, y in pixels))]
    if series.dots or len(pixels) == 1:
        parts += [el("circle", class_=f"point c{series.color}", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3) for x, y in pixels]
    return join(parts)


def _ring(frame: _Frame, at: tuple[float, float], name: str) -> Html:
    x, y = frame.x(at[0]), frame.y(at[1])
    side = "end" if x > _WIDTH * 0.75 else "start" if x < _WIDTH * 0.25 else "middle"
    above = y > _TOP + 24
    return join(
        el("circle", class_="ring", cx=f"{x:.1f}", cy=f"{y:.1f}", r=6.5),
        el("text", name, class_=f"tick {side} strong", x=f"{x:.1f}", y=f"{y - 12 if above else y + 20:.1f}"),
    )


def _thinned(points: Points) -> Points:
    """At most a few hundred points: the mean of each run of neighbours."""
    size = -(-len(points) // _MOST_POINTS)
    if size <= 1:
        return points
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def _legend(series: Sequence[Series]) -> Html:
    if len(series) == 1:
        return Html("")
    items = [el("li", el("i", class_=f"c{s.color}" + (" faint" if s.faint else "")), s.name) for s in series]
    return el("ul", items, class_="legend")


def _for_hover(series: Sequence[Series], frame: _Frame, unit: str) -> str:
    """What the script needs to name the values under the pointer: pixel column and words of every point."""
    show: Callable[[float], str] = lambda y: f"{y:.4g}{unit}"  # noqa: E731
    return json.dumps(
        [
            [s.name, [[round(frame.x(x), 1), f"{x:g}", show(y)] for x, y in _thinned(s.points)]]
            for s in series
            if not s.faint
        ],
        ensure_ascii=False,
    )
