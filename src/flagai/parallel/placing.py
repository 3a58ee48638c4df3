"""What is done to any model before and after it is spread: checks, equal weights, the device. Knows no axes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from flagai.errors import ModelError
from flagai.parallel import surroundings


def local_device(device: torch.device) -> torch.device:
    """Of several accelerators the one of this process's number on its machine."""
    if device.type == "cuda" and device.index is None:
        place = surroundings.find()
        device = torch.device("cuda", 0 if place is None else place.local_rank)
        torch.cuda.set_device(device)
    return device


def check_buffers(model: nn.Module) -> None:
    """A model on meta must bring its tables that no checkpoint holds: nothing could fill them. Raises ModelError."""
    saved = model.state_dict().keys()
    lost = [name for name, buffer in model.named_buffers() if buffer.is_meta and name not in saved]
    if lost:
        raise ModelError(
            f"{', '.join(lost)} are on meta, and no checkpoint holds them",
            expected="parameters on meta, and real buffers",
            fix="build the model with its buffers on the CPU",
        )


@torch.no_grad()
def same_everywhere(model: nn.Module, device: torch.device) -> None:
    """The weights of the first process on all: a difference would stay for ever, and nobody would see it."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_meta or not tensor.numel():
            continue
        there = tensor.to(device).contiguous()
        dist.broadcast(there, 0)
        tensor.copy_(there)


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on a device; what was on meta has room there now, and waits for `fill`."""
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        return model._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t.to(device))
    return model.to(device)


def undivided(value: Tensor) -> Tensor:
    """A tensor that may lie on several processes, whole on each of them."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def put_together(outputs: Any) -> Any:
    """The outputs of a model with their tensors whole; None stays None."""
    if outputs is None:
        return None
    return {key: undivided(value) if isinstance(value, Tensor) else value for key, value in outputs.items()}
