"""The order in which a stage works on its micro-batches. Knows no tensor and no process.

All processes compute the orders of all stages, so that what one sends is what the next waits for. Sources: Narayanan
et al. 2019, "PipeDream" (SOSP), section 3.2 (one forward, one backward); Narayanan et al. 2021 (arXiv:2104.04473),
section 2.2 (interleaved); Qi et al. 2023, "Zero Bubble Pipeline Parallelism" (arXiv:2401.10241), section 2 (ZB-H1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

Kind = Literal["forward", "backward", "weight"]
SCHEDULES: Final = ("1f1b", "interleaved", "zero-bubble")


class Action(NamedTuple):
    """What is done with one micro-batch in one run of layers; `weight` is the half of a backward nobody waits for."""

    kind: Kind
    number: int
    chunk: int = 0


def orders(schedule: str, stages: int, chunks: int, micro_batches: int) -> list[list[Action]]:
    """What each stage does, in order.

    Args:
        schedule: one of `SCHEDULES`.
        chunks: runs of layers on each process; 1 unless interleaved.
    """
    if schedule == "1f1b":
        return [one_forward_one_backward(stage, stages, micro_batches) for stage in range(stages)]
    clock = _Clock(stages, chunks, micro_batches, later=schedule == "zero-bubble")
    while clock.tick():
        pass
    return clock.done


def one_forward_one_backward(stage: int, stages: int, micro_batches: int) -> list[Action]:
    """What a stage does, in order: it never holds more than `stages - stage` micro-batches at once."""
    ahead = min(stages - stage - 1, micro_batches)
    order = [Action("forward", i) for i in range(ahead)]
    for i in range(micro_batches - ahead):
        order += [Action("forward", ahead + i), Action("backward", i)]
    return order + [Action("backward", i) for i in range(micro_batches - ahead, micro_batches)]


def _rounds(stages: int, chunks: range, micro_batches: int) -> Iterator[tuple[int, int]]:
    """(chunk, micro-batch): as many micro-batches as there are stages go through one chunk, then through the next."""
    for first in range(0, micro_batches, stages):
        for chunk in chunks:
            for number in range(first, min(first + stages, micro_batches)):
                yield chunk, number


class _Clock:
    """Plays all stages against a clock: each takes the backward that waits, else a forward, else deferred weights.

    Args:
        later: a backward is two actions of one tick each; else it is one of two ticks.
    """

    def __init__(self, stages: int, chunks: int, micro_batches: int, *, later: bool) -> None:
        self._stages, self._chunks, self._later, self._now = stages, chunks, later, 0
        forward = list(_rounds(stages, range(chunks), micro_batches))
        backward = list(_rounds(stages, range(chunks)[::-1], micro_batches))
        self._forward = [list(forward) for _ in range(stages)]
        self._backward = [list(backward) for _ in range(stages)]
        self._weights: list[list[tuple[int, int]]] = [[] for _ in range(stages)]
        self._held, self._free = [0] * stages, [0] * stages
        self._most = [self._bound(stage) for stage in range(stages)]
        self._ended: dict[tuple[str, int, int], int] = {}
        self.done: list[list[Action]] = [[] for _ in range(stages)]

    def tick(self) -> bool:
        """One unit of time on all stages; False when nothing is left."""
        busy = [self._turn(stage) for stage in range(self._stages)]
        if not any(busy) and all(free <= self._now for free in self._free):
            if not any(self._forward) and not any(self._backward) and not any(self._weights):
                return False
            self._most = [most + 1 for most in self._most]  # a short last round may need one more in flight
        self._now += 1
        return True

    def _bound(self, stage: int) -> int:
        """Micro-batches in flight on a stage until its first backward can come."""
        if self._chunks == 1:
            return self._stages - stage
        return 2 * (self._stages - stage - 1) + (self._chunks - 1) * self._stages + 1

    def _turn(self, stage: int) -> bool:
        if self._free[stage] > self._now:
            return False
        if self._backward[stage] and self._is_ready("backward", stage, *self._backward[stage][0]):
            chunk, number = self._backward[stage].pop(0)
            self._held[stage] -= 1
            self._do("backward", stage, chunk, number, 1 if self._later else 2)
            if self._later:
                self._weights[stage].append((chunk, number))
        elif self._may_go_on(stage):
            chunk, number = self._forward[stage].pop(0)
            self._held[stage] += 1
            self._do("forward", stage, chunk, number, 1)
        elif self._weights[stage]:
            self._do("weight", stage, *self._weights[stage].pop(0), 1)
        else:
            return False
        return True

    def _may_go_on(self, stage: int) -> bool:
        in_flight = self._held[stage] + len(self._weights[stage])  # deferred weights keep their activations, too
        room = in_flight < self._most[stage]
        return bool(self._forward[stage]) and room and self._is_ready("forward", stage, *self._forward[stage][0])

    def _is_ready(self, kind: Kind, stage: int, chunk: int, number: int) -> bool:
        """Whether what the action needs had ended on the stages around it when this tick began."""
        place, last = chunk * self._stages + stage, self._chunks * self._stages - 1
        needed = [("forward", place)] if kind == "backward" else []
        if kind == "forward" and place > 0:
            needed.append(("forward", place - 1))
        if kind == "backward" and place < last:
            needed.append(("backward", place + 1))
        never = self._now + 1
        return all(self._ended.get((what, where, number), never) <= self._now for what, where in needed)

    def _do(self, kind: Kind, stage: int, chunk: int, number: int, ticks: int) -> None:
        self._free[stage] = self._now + ticks
        self._ended[kind, chunk * self._stages + stage, number] = self._now + ticks
        self.done[stage].append(Action(kind, number, chunk))
