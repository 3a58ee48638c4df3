"""Parameters lie in memory as torch would lay them, whatever file they came from. Knows no step and no file."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

_BYTES: Final = 64
"""where torch's allocator begins a tensor on a CPU"""


@torch.no_grad()
def align(model: nn.Module) -> None:
    """Move parameters that begin elsewhere, as those that are mapped from a file do.

    The CPU's matrix products take other paths for memory that begins elsewhere, and their last bit differs. A run that
    goes on from a checkpoint, whose weights stand at other places in another file, would leave its course by that, and
    a model read back from its folder would answer otherwise than it was measured.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.data_ptr() % _BYTES:
            parameter.data = parameter.data.clone()
