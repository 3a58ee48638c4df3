"""Which number format a device computes in. Knows devices and formats, no model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from flagai.errors import ConfigError, unknown_name

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto", *, where: str = "train.device") -> torch.device:
    """`auto` is the first accelerator of this machine, else the CPU; `where` names the option in messages.

    Raises:
        ConfigError: a device that is not here.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator if accelerator is not None else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"the device {name!r} cannot be used: {str(error).splitlines()[0]}",
            where=where,
            expected="auto, cpu, cuda, cuda:0, mps, …",
            fix="leave it at auto",
        ) from error
    return device


def resolve_precision(name: str, device: torch.device, *, where: str = "train.precision") -> str:
    """`auto` is bf16 where the device multiplies it natively, else fp32. Raises ConfigError for an unknown name."""
    if name != "auto" and name not in DTYPES:
        raise unknown_name("precision", name, ["auto", *DTYPES], where=where)
    return ("bf16" if _fast_bf16(device) else "fp32") if name == "auto" else name


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # The C++ queries that oneDNN itself uses; there is no public spelling in torch 2.13.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


@contextlib.contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Matrix products in `precision`, weights and sums in fp32; nothing for fp32."""
    if precision == "fp32":
        yield
        return
    with torch.autocast(device.type, dtype=DTYPES[precision]):
        yield
