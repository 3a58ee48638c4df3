"""How a model is spread, beside the numbers of processes: the switches, and which of them exclude one another.

It knows settings only: no model, no process.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flagai.errors import ConfigError
from flagai.parallel.axes import Sizes
from flagai.parallel.schedule import SCHEDULES


def no_writing() -> ConfigError:
    """What is said to a task that writes where no process holds the whole model."""
    return ConfigError(
        "a task that writes cannot be evaluated on a pipeline: no process holds the whole model",
        where="parallel.pipeline",
        expected="a layout without stages",
        fix="leave data.eval and data.test out, set data.eval_fraction=0 and evaluate the saved model; "
        "or use parallel.tensor or strategy fsdp",
    )


@dataclass(frozen=True, kw_only=True)
class Ways:
    """The switches of `Spread`.

    Args:
        offload: shards and optimizer live in the CPU's memory.
        recompute: compute the activations of each layer again in backward, instead of keeping them.
        sequence: the processes of a tensor group share the tokens between the products, too.
        divided_loss: compute the cross entropy on scores divided by the vocabulary; for tasks whose loss is nothing
            but `cross_entropy(logits, labels)`.
        schedule: "1f1b", "interleaved" or "zero-bubble": the order of the stages of a pipeline.
        chunks: interleaved: runs of layers on each process.
        context_method: "all-gather" or "ulysses": how processes share the tokens of a text.
        reduce_dtype: the format in which gradients are summed over processes; None: that of the parameters.
    """

    offload: bool = False
    recompute: bool = False
    sequence: bool = False
    divided_loss: bool = False
    schedule: str = "1f1b"
    chunks: int = 2
    context_method: str = "all-gather"
    reduce_dtype: torch.dtype | None = None

    def runs(self, sizes: Sizes) -> int:
        """Runs of layers on each process."""
        return self.chunks if self.schedule == "interleaved" and sizes.pipeline > 1 else 1

    def check(self, sizes: Sizes) -> None:
        """Whether these go together. Raises ConfigError."""
        if self.schedule not in SCHEDULES:
            raise ConfigError(
                f"there is no schedule {self.schedule!r}",
                where="parallel.schedule",
                expected=f"one of: {', '.join(SCHEDULES)}",
            )
        if self.schedule == "zero-bubble" and sizes.pipeline > 1 and sizes.shard > 1:
            raise ConfigError(
                "gradients of weights cannot wait where the weights are in shards: they are put together for backward",
                where="parallel.schedule",
                expected="schedule 1f1b or interleaved beside strategy fsdp",
                fix="set parallel.schedule=1f1b, or parallel.strategy=ddp",
            )
