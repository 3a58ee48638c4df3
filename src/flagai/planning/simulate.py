"""A training step of one process on ghosts: how much memory it holds at each moment. Knows no device's size.

The activations of a step are what its operations make and something still needs: counted, not estimated, from the
operations that the model really calls on the heaviest part of a batch. The peak of a layout is the largest sum, over
the step, of what is there by then: parameters, optimizer and buffers all the time, gradients as they come, activations
as they go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flagai.models.plans import plan_of
from flagai.models.quiet import quiet_transformers
from flagai.parallel.native import SingleProcess, inputs_of
from flagai.parallel.plan import blocks
from flagai.parallel.precision import DTYPES, autocast
from flagai.parallel.recompute import recompute_layers
from flagai.parallel.schedule import orders
from flagai.parallel.stage import Stage
from flagai.planning.batches import Heaviest
from flagai.planning.ghosts import Ghosts
from flagai.planning.held import Held, held
from flagai.planning.kernels import as_on
from flagai.planning.layouts import Layout
from flagai.planning.made import larger_pieces
from flagai.planning.twin import cut_out

Loss = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], tuple[Tensor, Tensor]]
Make = Callable[[Ghosts], Any]
"""makes the whole model in ghosts that are not entered yet"""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one process needs.

    Args:
        held: what lies there between steps.
        activations: at most, of one part of a batch: what forward leaves for backward, and what comes and goes.
        batch: inputs and targets.
        peak: at most, of all of it at one moment, in the memory of the device.
        aside: what of `held` lies in another memory.
    """

    held: Held
    activations: int
    batch: int
    peak: int
    aside: int


class Simulator:
    """Steps of one run on ghosts; layouts whose processes compute the same share what was counted.

    Args:
        kind: "cpu" or "cuda", where it is to run.
    """

    def __init__(self, make: Make, loss: Loss, *, kind: str) -> None:
        self._make, self._loss, self._kind = make, loss, kind
        self._courses: dict[Any, _Course] = {}

    def need(self, layout: Layout, heaviest: Heaviest) -> Need:
        """What the neediest process of a layout needs for the heaviest part of a batch.

        Raises:
            ModelError: the model cannot be divided so.
        """
        count = layout.sizes.pipeline
        # Stages in the middle are alike, and the first of them holds the most micro-batches at once.
        stages = sorted({0, min(1, count - 1), count - 1})
        return max((self._of_stage(layout, heaviest, stage) for stage in stages), key=lambda found: found.peak)

    def at_least(self, layout: Layout) -> int:
        """Bytes that a layout needs whatever its batches are."""
        there = held(self._part(layout, 0)[1], layout)
        return there.total - self._aside(there)

    def _of_stage(self, layout: Layout, heaviest: Heaviest, stage: int) -> Need:
        ghosts, model, staged = self._part(layout, stage)
        there = held(model, layout)
        key = _key(layout, heaviest, stage)
        if key not in self._courses:
            self._courses[key] = self._run(layout, heaviest, ghosts, model, staged)
        return self._added_up(there, self._courses[key], heaviest.parts, most=2.0 if _halved(layout) else 1.0)

    def _part(self, layout: Layout, stage: int) -> tuple[Ghosts, Any, Stage | None]:
        """The model as one process holds it."""
        ghosts = Ghosts()
        model, parallel, sizes = self._make(ghosts), layout.parallel, layout.sizes
        chunks = parallel.chunks if parallel.schedule == "interleaved" and sizes.pipeline > 1 else 1
        with ghosts:
            model, staged = cut_out(model, sizes, stage=stage, chunks=chunks, sequence=parallel.sequence)
        return ghosts, model, staged

    def _run(self, layout: Layout, heaviest: Heaviest, ghosts: Ghosts, model: Any, staged: Stage | None) -> _Course:
        batch = {name: torch.as_tensor(value) for name, value in heaviest.batch.items()}
        ghosts.watch(list(model.parameters()))
        scores = heaviest.examples * heaviest.length**2 * _heads(model)
        with quiet_transformers(), ghosts, larger_pieces(scores), as_on(self._kind):
            if _halved(layout):
                model.to(DTYPES[layout.config.train.precision])
            elif layout.sizes.shard > 1 and layout.config.train.precision in ("bf16", "fp16"):
                for block in blocks(model, plan_of(model)):  # put together in half precision: autocast copies nothing
                    block.to(DTYPES[layout.config.train.precision])
            before = ghosts.restart()
            _Step(layout, model, staged, batch, self._loss, heaviest.parts).run()
        course = ghosts.course()
        others = course[:, 0] - before - course[:, 1]
        size = sum(value.nbytes for value in batch.values())
        return _Course(gradients=course[:, 1], others=others, whole=ghosts.gradients, batch=size)

    def _added_up(self, there: Held, course: _Course, parts: int, *, most: float) -> Need:
        """`most` of backward's gradients are kept: twice as much where those in half precision add up in fp32."""
        share = min(most, there.gradients / course.whole) if course.whole else 0.0
        moving = int(np.max(course.others + course.gradients * share))
        aside = self._aside(there)
        fixed = there.parameters + there.optimizer + there.buffers + there.gathered - aside
        size = course.batch * parts
        return Need(
            held=there,
            activations=int(np.max(course.others)),
            batch=size,
            peak=max(fixed + moving, there.total - aside) + size,
            aside=aside,
        )

    def _aside(self, there: Held) -> int:
        """What lies in another memory than that of the device."""
        return 0 if self._kind == "cpu" else there.offloaded


@dataclass(frozen=True, kw_only=True)
class _Course:
    """Bytes over a step: of gradients, of everything else that came; `whole` gradients at the end, one batch."""

    gradients: np.ndarray
    others: np.ndarray
    whole: int
    batch: int


def _key(layout: Layout, heaviest: Heaviest, stage: int) -> Any:
    """Equal where a process makes the same operations."""
    parallel, sizes = layout.parallel, layout.sizes
    schedule = (parallel.schedule, parallel.chunks, heaviest.parts) if sizes.pipeline > 1 else min(2, heaviest.parts)
    return (
        stage, sizes.pipeline, sizes.tensor, sizes.context, parallel.sequence, parallel.recompute, schedule,
        layout.config.train.precision, _halved(layout), sizes.shard > 1,
        heaviest.step, heaviest.examples, heaviest.length,
    )  # fmt: skip


def _halved(layout: Layout) -> bool:
    """DeepSpeed keeps the weights themselves in half precision."""
    several = layout.processes > 1 and layout.parallel.strategy.startswith("zero")
    return several and layout.config.train.precision in ("bf16", "fp16")


def _heads(model: Any) -> int:
    text = model.config.get_text_config()
    return int(getattr(text, "num_attention_heads", None) or getattr(text, "num_heads", 1))


class _Step:
    """Forward and backward of one process, over as many parts of a batch as change the most there is at a moment."""

    def __init__(
        self,
        layout: Layout,
        model: Any,
        staged: Stage | None,
        batch: Mapping[str, Tensor],
        loss: Loss,
        parts: int,
    ) -> None:
        self._layout, self._model, self._staged, self._batch, self._loss = layout, model, staged, batch, loss
        self._parts, self._precision = parts, "fp32" if _halved(layout) else layout.config.train.precision

    def run(self) -> None:
        """Once, or where gradients of an earlier part are there already, twice; on stages in the order of stages."""
        if self._staged is not None:
            return self._along()
        recompute = self._layout.parallel.recompute
        strategy = SingleProcess(device="cpu", precision=self._precision, recompute=recompute)
        strategy.place(self._model)
        strategy.accumulate([self._batch] * min(2, self._parts), self._loss)

    def _along(self) -> None:
        assert self._staged is not None
        parallel, sizes = self._layout.parallel, self._layout.sizes
        if parallel.recompute:
            recompute_layers(self._model, plan_of(self._model))
        self._model.train()
        index = _index(self._staged, sizes.pipeline)
        count = min(self._parts, 2 * sizes.pipeline)
        left: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        for kind, number, chunk in orders(parallel.schedule, sizes.pipeline, self._staged.chunks, count)[index]:
            if kind == "forward":
                left[chunk, number] = self._forward(chunk)
            elif kind == "backward":
                out = [value for value in left.pop((chunk, number)) if value.requires_grad]
                torch.autograd.backward(out, [torch.empty_like(value) for value in out])

    def _forward(self, chunk: int) -> tuple[Tensor, ...]:
        assert self._staged is not None
        with autocast(torch.device("cpu"), self._precision):
            came = self._staged.forward(_received, inputs_of(self._batch, self._model), chunk)
        if not self._staged.is_last(chunk):
            return came
        return (self._loss(came, self._batch)[0],)


def _received(template: Tensor) -> Tensor:
    return torch.empty_like(template, dtype=torch.float32).requires_grad_()


def _index(staged: Stage, count: int) -> int:
    return 0 if staged.is_first(0) else count - 1 if staged.is_last(staged.chunks - 1) else 1
