"""Memory that ends in the middle of a step: how it is recognised, and what is put back. Knows no loop and no model."""

from __future__ import annotations

import re
from typing import Final

import torch

from flagai.errors import OutOfMemoryError

_CPU: Final = re.compile(r"not enough memory|can't allocate memory|Cannot allocate memory|CUDA out of memory", re.I)
"""what allocators without an error class of their own say"""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device, or the machine, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU.search(str(error)) is not None


class Streams:
    """The random streams of this process as they were when this was made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """What is drawn next is what was drawn next then."""
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)


def give_back(model: torch.nn.Module, device: torch.device) -> None:
    """Forget gradients that were half summed, and return cached memory to the device."""
    for parameter in model.parameters():
        parameter.grad = None
    if device.type == "cuda":
        torch.cuda.empty_cache()


def too_large(step: int, examples: int, fix: str, *, rank: int | None = None) -> OutOfMemoryError:
    """The error for a step that does not fit.

    Args:
        examples: of the largest part that was tried.
        fix: what makes the parts smaller, "" where they cannot be smaller.
        rank: of the process whose memory ended, where there are several.
    """
    who = "" if rank is None else f" on rank {rank}"
    ways = "train.precision=bf16, parallel.recompute=true, a lower data.max_length, model.lora, or more processes"
    return OutOfMemoryError(
        f"out of memory at step {step}{who}, with {examples} example{'' if examples == 1 else 's'} at a time",
        where="train",
        expected="a step that fits",
        fix=f"{fix}; or {ways}" if fix else f"set {ways} (`flagai plan` compares them)",
    )
