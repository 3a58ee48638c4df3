"""Strategy megatron: the products of a model are Megatron-Core's layers, all else is that of `Spread`.

It knows no family: the same plans that divide a model with torch alone say which of its layers become Megatron's.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

from torch import nn

from flagai.errors import ConfigError, MissingExtraError
from flagai.models.plan import Plan
from flagai.parallel import world
from flagai.parallel.axes import TENSOR
from flagai.parallel.precision import DTYPES, choose_device
from flagai.parallel.spread import Spread, needed_plan
from flagai.parallel.tensor import Divided

if TYPE_CHECKING:
    from flagai.config import ParallelConfig


class Megatron(Spread):
    """Linears and tables of a plan as Megatron-Core's layers, on one process (tensor 1) as on many.

    Weights, moments and checkpoints have the model's own names and shapes: a run goes on under any other strategy.
    """

    takes_meta = False

    def _divide(self, model: nn.Module, plan: Plan | None) -> Divided | None:
        from flagai.parallel.megatron_layers import divide_by_megatron

        return divide_by_megatron(model, needed_plan(plan, model), self.axes.mesh[TENSOR])


def from_config(config: ParallelConfig, *, device: str = "auto", precision: str = "fp32") -> Megatron:
    """The strategy of the section `parallel`, in a process that a launcher started.

    Raises:
        MissingExtraError: Megatron-Core is not installed.
        ConfigError: settings that mean nothing to its layers, or do not fit the processes that there are.
    """
    _check_package()
    _check(config)
    if choose_device(device).type == "cuda":
        # Its backward sends the gradient of an input while it computes that of the weight; with one queue the device
        # begins with the message. Read when CUDA starts, hence here.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    from flagai.parallel.choose import sizes_of

    reduced = None if config.reduce_dtype is None else DTYPES[config.reduce_dtype]
    sizes = sizes_of(config, world.processes())
    return Megatron(sizes, device=device, precision=precision, recompute=config.recompute, reduce_dtype=reduced)


def _check_package() -> None:
    if importlib.util.find_spec("megatron") is None or importlib.util.find_spec("megatron.core") is None:
        raise MissingExtraError.for_package("megatron.core", "megatron")


def _check(config: ParallelConfig) -> None:
    if config.sequence:
        raise ConfigError(
            "parallel.sequence with strategy megatron",
            where="parallel.sequence",
            expected="strategy ddp or fsdp, whose layers share the tokens, of any number",
            fix="set parallel.strategy=ddp, or take parallel.sequence out",
        )
    if config.context > 1:
        raise ConfigError(
            f"parallel.context is {config.context} with strategy megatron",
            where="parallel.context",
            expected="strategy ddp or fsdp",
            fix="set parallel.strategy=ddp, or parallel.context=1",
        )
