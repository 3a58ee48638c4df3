"""How many processes the settings of a run ask for. Knows numbers; starts nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flagai.errors import ConfigError

if TYPE_CHECKING:
    from flagai.config import RunConfig


def is_single(config: RunConfig) -> bool:
    """Whether the run is one process, which needs no launcher.

    Raises:
        ConfigError: one process, and several too.
    """
    parallel = config.parallel
    if parallel.strategy == "single" and (parallel.processes or 1) > 1:
        raise several_for_single(f"parallel.processes is {parallel.processes}", where="parallel.processes")
    return parallel.strategy == "single"


def several_for_single(found: str, *, where: str) -> ConfigError:
    """The error for several processes and strategy single."""
    return ConfigError(
        f"{found}, but the strategy is one process",
        where=where,
        expected="strategy ddp, fsdp, zero1, zero2, zero3, megatron or bmtrain",
        fix="set parallel.strategy=ddp",
    )


def processes_here(config: RunConfig) -> int:
    """Processes on this machine: those that are stated, or one a GPU, or on a CPU as few as the strategy needs.

    Raises:
        ConfigError: several processes for one device, or more than there are GPUs.
    """
    import torch

    parallel, device = config.parallel, config.train.device
    gpus = torch.cuda.device_count() if device == "auto" or device.startswith("cuda") else 0
    if not gpus:
        return parallel.processes or parallel.tensor * parallel.pipeline * parallel.context * (parallel.shard or 1)
    count = parallel.processes or gpus
    if count > 1 and ":" in device:
        raise ConfigError(
            f"train.device is {device!r}, and {count} processes are to run",
            where="train.device",
            expected="cuda, of which each process takes the device of its number",
            fix="set train.device=cuda, and CUDA_VISIBLE_DEVICES to the devices to use",
        )
    if count > gpus:
        raise ConfigError(
            f"parallel.processes is {count}, but there are {gpus} GPUs",
            where="parallel.processes",
            expected=f"at most {gpus}: one process a GPU",
            fix=f"set parallel.processes={gpus}, or train.device=cpu",
        )
    return count
