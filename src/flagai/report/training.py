"""The curves of a run: loss, evaluation metrics, and what explains them. It knows logged rows, not a trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flagai.report.charts import Series, line_chart, smooth
from flagai.report.markup import Html, el, join
from flagai.report.numbers import is_number, is_share, less_is_better
from flagai.report.words import Say

_SMOOTH_FROM = 40
"""points from which a smoothed line is drawn over the raw one"""


def curves(report: Mapping[str, Any], say: Say) -> Html:
    """Loss and evaluation metrics over steps, the rest folded; empty where nothing was logged."""
    parts = report.get("curves") or {}
    train, evaluated = parts.get("train") or [], parts.get("eval") or []
    main = [_loss(train, evaluated, say), _evaluation(report, evaluated, say)]
    more = [
        line_chart(say(name), [Series(name=say(name), points=_points(train, name))], x_name=say("step"), from_zero=True)
        for name in ("learning_rate", "grad_norm", "tokens_per_second")
    ]
    if not any(main) and not any(more):
        return Html("")
    folded = (
        el("details", el("summary", say("more_curves")), el("div", more, class_="charts three")) if any(more) else ""
    )
    return join(el("div", main, class_="charts"), folded)


def _loss(train: Sequence[Mapping[str, Any]], evaluated: Sequence[Mapping[str, Any]], say: Say) -> Html:
    raw = _points(train, "loss")
    dense = len(raw) >= _SMOOTH_FROM
    series = [Series(name=say("train_loss"), points=raw, faint=dense)]
    if dense:
        series.append(Series(name=say("train_loss_smooth"), points=smooth(raw)))
    series.append(Series(name=say("eval_loss"), points=_points(evaluated, "loss"), color=2, dots=True))
    return line_chart(say("loss"), series, x_name=say("step"), from_zero=True)


def _evaluation(report: Mapping[str, Any], evaluated: Sequence[Mapping[str, Any]], say: Say) -> Html:
    """The best metric, and at most two more of the same kind beside it."""
    names = list(dict.fromkeys(name for row in evaluated for name in row if name not in {"step", "loss"}))
    best = str(report.get("best_metric"))
    lead = best if best in names else names[0] if names else ""
    same = [n for n in names if n != lead and is_share(n) == is_share(lead) and not less_is_better(n)]
    shown: list[str] = [lead, *([] if less_is_better(lead) else same[:2])]
    scale, unit = (100, "%") if is_share(lead) else (1, "")
    series = [
        Series(name=say(n), points=[(x, scale * y) for x, y in _points(evaluated, n)], color=i + 1, dots=True)
        for i, n in enumerate(shown)
    ]
    if not series[0].points:
        return Html("")
    choose = min if less_is_better(lead) else max
    # The first of equals: that is the checkpoint that was kept.
    top = choose(series[0].points, key=lambda point: point[1])
    title = say("eval_metrics") if len(series) > 1 else say(lead)
    return line_chart(title, series, x_name=say("step"), unit=unit, mark=say("best"), mark_at=top)


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(row["step"], row[name]) for row in rows if is_number(row.get("step")) and is_number(row.get(name))]
