"""The confusion matrix as inline SVG, and its largest off-diagonal cells. It knows labels and counts."""

from __future__ import annotations

from collections.abc import Sequence

from flagai.report.markup import Html, el, join
from flagai.report.numbers import columns_of

Matrix = Sequence[Sequence[int]]

_LONGEST_NAME = 22
_COMPACT_CELL = 7


def confused_pairs(labels: Sequence[str], matrix: Matrix) -> list[tuple[str, str, int, float]]:
    """(gold, predicted, count, share of the gold label) of every wrong cell, the most frequent first."""
    pairs = []
    for i, row in enumerate(matrix):
        total = sum(row)
        pairs += [(labels[i], labels[j], n, n / total) for j, n in enumerate(row) if n and i != j]
    return sorted(pairs, key=lambda pair: (-pair[2], -pair[3], pair[0], pair[1]))


def full_heatmap(labels: Sequence[str], matrix: Matrix, *, gold: str, predicted: str) -> Html:
    """With label names at both sides and the counts in the cells; for up to about thirty labels."""
    cell = 44 if len(labels) <= 8 else 34 if len(labels) <= 15 else 26
    names = [_short(label) for label in labels]
    margin = 12 + max(map(columns_of, names)) * 7
    side = margin + cell * len(labels)
    head = margin if len(labels) > 2 else margin * 0.8
    parts = [
        join(
            _row_name(name, label, margin, head + (i + 0.5) * cell),
            _column_name(name, label, margin + (i + 0.5) * cell, head),
        )
        for i, (name, label) in enumerate(zip(names, labels, strict=True))
    ]
    cells = _cells(labels, matrix, cell, left=margin, top=head, counts=True)
    frame = el("rect", class_="frame", x=margin, y=head, width=cell * len(labels), height=cell * len(labels))
    height = head + cell * len(labels) + 1
    return el(
        "svg", parts, frame, cells, class_="heat", viewBox=f"0 0 {side + 1:.0f} {height:.0f}", width=f"{side + 1:.0f}",
        height=f"{height:.0f}", role="img", aria_label=f"{gold} × {predicted}",
    )  # fmt: skip


def compact_heatmap(labels: Sequence[str], matrix: Matrix, *, gold: str, predicted: str) -> Html:
    """Without names, a few pixels a cell, for any number of labels; cells name themselves under the pointer."""
    side = len(labels) * _COMPACT_CELL
    return el(
        "svg",
        el("rect", class_="frame", x=14, y=14, width=side, height=side),
        _cells(labels, matrix, _COMPACT_CELL, left=14, top=14, counts=False),
        el("text", f"{predicted} →", class_="tick", x=16, y=10),
        el("text", f"{gold} →", class_="tick", transform="translate(4 16) rotate(90)"),
        class_="heat compact", viewBox=f"0 0 {side + 16} {side + 16}", role="img", aria_label=f"{gold} × {predicted}",
    )  # fmt: skip


def _cells(labels: Sequence[str], matrix: Matrix, cell: int, *, left: float, top: float, counts: bool) -> Html:
    parts = []
    for i, row in enumerate(matrix):
        total = sum(row) or 1
        for j, number in enumerate(row):
            if number:
                x, y = left + j * cell, top + i * cell
                title = el("title", f"{labels[i]} → {labels[j]}: {number} ({100 * number / total:.0f} %)")
                parts.append(_cell(number, number / total, x, y, cell, right=i == j, title=title, counts=counts))
    return join(parts)


def _cell(number: int, share: float, x: float, y: float, cell: int, *, right: bool, title: Html, counts: bool) -> Html:
    # Square root: one wrong record of fifty must still be seen.
    strength = 0.12 + 0.88 * share**0.5 if not right else 0.15 + 0.85 * share
    gap = 1 if counts else 0.4
    kind = "right" if right else "wrong"
    box = el(
        "rect", title, class_=kind, x=f"{x + gap:g}", y=f"{y + gap:g}", width=f"{cell - 2 * gap:g}",
        height=f"{cell - 2 * gap:g}", rx=3 if counts else 0.5, fill_opacity=f"{strength:.2f}",
    )  # fmt: skip
    if not counts:
        return box
    style = "number" + (" on" if strength > 0.6 else "")
    word = el("text", number, class_=style, x=f"{x + cell / 2:g}", y=f"{y + cell / 2:g}", dy="0.35em")
    return join(box, word)


def _row_name(name: str, label: str, margin: float, y: float) -> Html:
    return el("text", el("title", label), name, class_="tick end", x=f"{margin - 6:g}", y=f"{y:g}", dy="0.35em")


def _column_name(name: str, label: str, x: float, head: float) -> Html:
    return el(
        "text",
        el("title", label),
        name,
        class_="tick",
        transform=f"translate({x:g} {head - 6:g}) rotate(-90)",
        dy="0.35em",
    )


def _short(name: str) -> str:
    while columns_of(name) > _LONGEST_NAME:
        name = name[:-2] + "…"
    return name
