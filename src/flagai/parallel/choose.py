"""The settings of a run → the strategy that does it. Knows names and numbers; a strategy is imported when asked for."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from flagai.errors import ConfigError, MissingExtraError, unknown_name

if TYPE_CHECKING:
    from flagai.config import ParallelConfig
    from flagai.parallel.axes import Sizes
    from flagai.parallel.strategy import Strategy

ENVIRONMENTS: Final[Mapping[str, str]] = {
    "pytorch": "single",
    "pytorchDDP": "ddp",
    "deepspeed": "zero2",
    "deepspeed+mpu": "zero2",
    "bmtrain": "bmtrain",
}
"""`env_type` of the original → `parallel.strategy`"""
_PACKAGES: Final = {
    "zero1": "deepspeed", "zero2": "deepspeed", "zero3": "deepspeed",
    "megatron": "megatron", "bmtrain": "bmtrain",
}  # fmt: skip
"""strategies of a package of its own, which is also the name of the module here"""


def from_environment(env_type: str, *, model_parallel_size: int = 1) -> dict[str, Any]:
    """The `parallel` section that means what the original's `env_type` and `model_parallel_size` meant.

    Only `deepspeed+mpu` divided a model; ZeRO divides no products, so that becomes shards beside tensor parts, which
    share the memory as well. `pytorch` is one process whatever the machine has.

    Raises:
        ConfigError: another name, or a divided model where the original had none.
    """
    if env_type not in ENVIRONMENTS:
        raise unknown_name("env_type", env_type, ENVIRONMENTS, where="env_type")
    if model_parallel_size != 1 and env_type != "deepspeed+mpu":
        raise ConfigError(
            f"model_parallel_size is {model_parallel_size} with env_type {env_type!r}",
            where="model_parallel_size",
            expected="env_type 'deepspeed+mpu', which divides a model",
            fix="set env_type='deepspeed+mpu', or leave model_parallel_size at 1",
        )
    strategy = "fsdp" if model_parallel_size > 1 else ENVIRONMENTS[env_type]
    return {"strategy": strategy, "tensor": model_parallel_size}


def sizes_of(config: ParallelConfig, processes: int) -> Sizes:
    """How many processes stand along each axis, of those there are.

    Raises:
        ConfigError: the number of processes is no multiple of tensor × pipeline (× shard).
    """
    from flagai.parallel.axes import Sizes

    divided = config.tensor * config.pipeline * config.context
    copies, rest = divmod(processes, divided)
    if rest or not copies:
        raise ConfigError(
            f"{processes} processes cannot be cut into groups of tensor {config.tensor} × pipeline {config.pipeline}"
            + (f" × context {config.context}" if config.context > 1 else ""),
            where="parallel",
            expected=f"a multiple of {divided} processes",
            fix=f"start {divided} processes, or change parallel.tensor and parallel.pipeline",
        )
    if config.strategy != "fsdp":
        return Sizes(pipeline=config.pipeline, replicate=copies, context=config.context, tensor=config.tensor)
    shard = config.shard or copies
    if copies % shard:
        raise ConfigError(
            f"parallel.shard {shard} does not divide {copies}, the processes that see different examples",
            where="parallel.shard",
            expected=f"a number that divides {copies}",
            fix="leave it out: all of them share one copy of the parameters",
        )
    return Sizes(
        pipeline=config.pipeline,
        replicate=copies // shard,
        shard=shard,
        context=config.context,
        tensor=config.tensor,
    )


def make_strategy(config: ParallelConfig, *, device: str = "auto", precision: str = "fp32") -> Strategy:
    """The strategy of a run, in a process that torchrun started or in a single one.

    Raises:
        ConfigError: settings that do not fit one another or the processes that there are.
        MissingExtraError: the package of a strategy is not installed.
    """
    if (package := _PACKAGES.get(config.strategy)) is not None:
        return _elsewhere(package, config, device=device, precision=precision)
    from flagai.parallel import world

    processes = world.processes()
    if config.strategy == "single":
        if processes > 1:
            raise ConfigError(
                f"{processes} processes were started for strategy single",
                where="parallel.strategy",
                expected="ddp or fsdp",
                fix="set parallel.strategy=ddp, or start one process",
            )
        from flagai.parallel.native import SingleProcess

        return SingleProcess(device=device, precision=precision, recompute=config.recompute)
    from flagai.parallel.precision import DTYPES
    from flagai.parallel.spread import Spread

    return Spread(
        sizes_of(config, processes),
        device=device,
        precision=precision,
        offload=config.offload,
        recompute=config.recompute,
        sequence=config.sequence,
        schedule=config.schedule,
        chunks=config.chunks,
        context_method=config.context_method,
        reduce_dtype=DTYPES[config.reduce_dtype] if config.reduce_dtype is not None else None,
    )


def _elsewhere(package: str, config: ParallelConfig, *, device: str, precision: str) -> Strategy:
    """The strategy that `flagai.parallel.<package>` makes of the settings."""
    # No extra brings bmtrain, which must be built: its module says how, after it has looked at the device.
    if package != "bmtrain" and importlib.util.find_spec(package) is None:
        raise MissingExtraError.for_package(package, package)
    module = importlib.import_module(f"flagai.parallel.{package}")
    return module.from_config(config, device=device, precision=precision)
