"""The order in which a stage works on its micro-batches: one forward, one backward. Knows no tensor and no process.

Source: Narayanan et al. 2019, "PipeDream" (SOSP), section 3.2; Narayanan et al. 2021 (arXiv:2104.04473), section 2.2.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Action(NamedTuple):
    """Forward or backward of one micro-batch."""

    kind: Literal["forward", "backward"]
    number: int


def one_forward_one_backward(stage: int, stages: int, micro_batches: int) -> list[Action]:
    """What a stage does, in order: it never holds more than `stages - stage` micro-batches at once."""
    ahead = min(stages - stage - 1, micro_batches)
    order = [Action("forward", i) for i in range(ahead)]
    for i in range(micro_batches - ahead):
        order += [Action("forward", ahead + i), Action("backward", i)]
    return order + [Action("backward", i) for i in range(micro_batches - ahead, micro_batches)]
