"""From the hidden states of a sequence to one vector, exactly the same for every amount of padding.

It knows neither which model made the hidden states nor what the vector is for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

import torch
from torch import Tensor

from flagai.errors import ModelError, unknown_name

if TYPE_CHECKING:
    from transformers.utils.generic import ModelOutput

Pooling = Literal["mean", "cls", "max", "last"]
POOLINGS: Final[tuple[str, ...]] = get_args(Pooling)


def at_least_fp32(values: Tensor) -> Tensor:
    """`values` in fp32 where they were fp16 or bf16; fp32 and fp64 stay as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def require_output(outputs: ModelOutput, name: str) -> Tensor:
    """The output `name` of a model.

    Raises:
        ModelError: the model has no such output.
    """
    found = getattr(outputs, name, None)
    if found is None:
        listed = ", ".join(outputs) if hasattr(outputs, "keys") else type(outputs).__name__
        raise ModelError(
            f"the model gives no {name!r} (it gives: {listed})",
            expected=f"a model whose outputs hold {name!r}",
            fix="use an encoder that AutoModel loads, or another task for this model",
        )
    return found


def check_pooling(how: str) -> None:
    """Raises UnknownNameError unless `how` is one of POOLINGS."""
    if how not in POOLINGS:
        raise unknown_name("pooling", how, POOLINGS)


def pool(hidden: Tensor, attention_mask: Tensor, how: str = "mean") -> Tensor:
    """One vector a row from the attended positions only.

    Args:
        hidden: [B, L, H]; what stands at unattended positions has no influence, not even NaN.
        attention_mask: [B, L], non-zero where attended; pads may stand on either side.
        how: "mean", "max", "cls" (the first attended position) or "last" (the last one, for causal models).

    Returns:
        [B, H] in fp32 (fp64 for fp64 input), summed in that precision. A row with nothing attended gives zeros.
    """
    check_pooling(how)
    hidden = at_least_fp32(hidden)
    mask = attention_mask.to(torch.bool)
    if how in ("cls", "last"):
        return _pick(hidden, mask, last=how == "last")
    if how == "max":
        best = hidden.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)
        return best.masked_fill(~mask.any(dim=1)[:, None], 0.0)
    counts = mask.sum(dim=1, keepdim=True).clamp(min=1)
    return hidden.masked_fill(~mask[..., None], 0.0).sum(dim=1) / counts


def _pick(hidden: Tensor, mask: Tensor, *, last: bool) -> Tensor:
    # argmax of a 0/1 row gives its first 1; on the flipped row, counted from the other side, the last one.
    ones = mask.to(torch.int32)
    index = ones.shape[1] - 1 - ones.flip(1).argmax(dim=1) if last else ones.argmax(dim=1)
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, index].masked_fill(~mask.any(dim=1)[:, None], 0.0)
