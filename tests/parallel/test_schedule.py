"""Orders of a pipeline: nobody waits for ever, messages come in the order they are expected, and results are equal."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from spread_checks import LOSS, PROOF, STEPS, agree, alone, differences, quick

from flagai.parallel.schedule import Action, one_forward_one_backward, orders

ROWS = (8, 7, 3, 1)


def play(order: list[list[Action]], stages: int, chunks: int) -> int:
    """Run the orders as the stages do: a receive waits, a channel keeps its order. Gives the actions done."""
    left, done, channels = [list(actions) for actions in order], set(), {}
    last = stages * chunks - 1
    while any(left):
        before = len(done)
        for stage, actions in enumerate(left):
            while actions and _comes(actions[0], stage, stages, last, channels):
                kind, number, chunk = actions.pop(0)
                place = chunk * stages + stage
                if kind != "forward":
                    assert (place, "forward" if kind == "backward" else "backward", number) in done
                step = {"forward": 1, "backward": -1}.get(kind, 0)
                if step and 0 <= place + step <= last:
                    way = (kind, stage, (stage + step) % stages, (place + step) // stages != chunk)
                    channels.setdefault(way, []).append((place + step, number))
                done.add((place, kind, number))
        assert len(done) > before, "a deadlock"
    return len(done)


def _comes(action: Action, stage: int, stages: int, last: int, channels: dict[Any, list[Any]]) -> bool:
    """Whether what an action waits for is there; takes it."""
    place, step = action.chunk * stages + stage, {"forward": -1, "backward": 1}.get(action.kind, 0)
    if not step or not 0 <= place + step <= last:
        return True
    way = (action.kind, (stage + step) % stages, stage, (place + step) // stages != action.chunk)
    if not (waiting := channels.get(way)):
        return False
    assert waiting[0] == (place, action.number), "messages in another order"
    waiting.pop(0)
    return True


@pytest.mark.parametrize("stages", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("schedule", "chunks"), [("1f1b", 1), ("interleaved", 2), ("interleaved", 3), ("zero-bubble", 1)]
)
def test_everything_is_done_once_and_nobody_waits_for_ever(schedule: str, chunks: int, stages: int) -> None:
    for micro_batches in range(12):
        order = orders(schedule, stages, chunks, micro_batches)
        kinds = 3 if schedule == "zero-bubble" else 2
        assert play(order, stages, chunks) == kinds * stages * chunks * micro_batches


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("micro_batches", [0, 1, 2, 3, 7])
def test_one_forward_one_backward_holds_few(stages: int, micro_batches: int) -> None:
    for stage in range(stages):
        held = 0
        for action in one_forward_one_backward(stage, stages, micro_batches):
            held += 1 if action.kind == "forward" else -1
            assert held <= stages - stage


def test_no_order_holds_more_than_the_first_stage_must() -> None:
    for schedule, chunks, most in (("zero-bubble", 1, 4), ("interleaved", 2, 11)):
        for actions in orders(schedule, 4, chunks, 16):
            held, ends = 0, "weight" if schedule == "zero-bubble" else "backward"
            for action in actions:
                held += (action.kind == "forward") - (action.kind == ends)
                assert held <= most


def test_deferred_weights_fill_the_wait() -> None:
    first = orders("zero-bubble", 4, 1, 8)[0]
    assert [a.kind for a in first[-2:]] == ["backward", "weight"]
    assert first.index(Action("weight", 0)) < first.index(Action("backward", 7))


@pytest.mark.parametrize(
    ("schedule", "family"),
    quick(
        list(product(("interleaved", "zero-bubble"), ("glm", "bert", "t5", "gpt2"))),
        but={("interleaved", "t5"), ("zero-bubble", "glm")},
    ),
)
@pytest.mark.parametrize("accumulation", quick([1, 3, 5], but={3}))
def test_two_stages_train_as_one_process(two: Any, schedule: str, family: str, accumulation: int) -> None:
    results = two.run(
        "train", family=family, sizes={"pipeline": 2}, schedule=schedule, accumulation=accumulation, rows=ROWS
    )
    agree(results, alone(family, accumulation, ROWS))


@PROOF
@pytest.mark.parametrize(("schedule", "family"), list(product(("interleaved", "zero-bubble"), ("glm", "bert", "t5"))))
@pytest.mark.parametrize("accumulation", [1, 3])
def test_twenty_steps(two: Any, schedule: str, family: str, accumulation: int) -> None:
    options = {"sizes": {"pipeline": 2}, "schedule": schedule, "accumulation": accumulation}
    results = two.run("train", family=family, gradients=STEPS, **options)
    agree(results, alone(family, accumulation), gradients=STEPS)


@pytest.mark.parametrize(
    ("schedule", "options"),
    quick(
        [
            ("zero-bubble", "recompute"),
            ("interleaved", "recompute"),
            ("zero-bubble", "copies"),
            ("interleaved", "copies"),
            ("zero-bubble", "tensor"),
            ("interleaved", "tensor"),
            ("interleaved", "shards"),
        ],
        but={("zero-bubble", "copies")},
    ),
)
@pytest.mark.parametrize("family", quick(["glm", "t5"], but={"glm"}))
def test_with_other_ways(four: Any, schedule: str, options: str, family: str) -> None:
    ways: dict[str, dict[str, Any]] = {
        "recompute": {"sizes": {"pipeline": 2, "replicate": 2}, "recompute": True},
        "copies": {"sizes": {"pipeline": 2, "replicate": 2}},
        "tensor": {"sizes": {"pipeline": 2, "tensor": 2}},
        "shards": {"sizes": {"pipeline": 2, "shard": 2}},
    }
    results = four.run("train", family=family, **ways[options], schedule=schedule, accumulation=3, rows=ROWS)
    agree(results, alone(family, 3, ROWS))


@PROOF
@pytest.mark.parametrize(("family", "schedule"), [("t5", "1f1b"), ("glm", "zero-bubble"), ("bert", "1f1b")])
def test_four_stages(four: Any, family: str, schedule: str) -> None:
    results = four.run("train", family=family, sizes={"pipeline": 4}, schedule=schedule, accumulation=5, rows=ROWS)
    agree(results, alone(family, 5, ROWS))


def test_weights_that_are_forgotten_are_noticed(two: Any) -> None:
    sizes = {"pipeline": 2}
    results = two.run("train", family="glm", sizes=sizes, schedule="zero-bubble", rows=ROWS, plant="no weights")
    assert differences(results[0], alone("glm", rows=ROWS))[0] > 10 * LOSS
