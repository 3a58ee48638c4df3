"""Attention with dropout on its weights, for training on the CPU, where torch has no fused kernel for it.

It knows tensors and masks: no model, no packing, no device but the CPU.

softmax(Q Kᵀ · scale) V (Vaswani et al. 2017, eq. 1), with inverted dropout on the softmax. torch's general path walks
eight times over every score in memory. Here a piece of the scores goes through all steps while it is in the cache, and
one number for each score is kept for backward: half the weight, negative where it was dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from flagai.models.dropout import keep_mask

# Scores of one piece, nearly what a core's cache holds: fewer are slower, four times as many are as quick (measured).
# Never to depend on the machine: a seed's masks follow the pieces.
_PIECE: Final = 1 << 18


def has_no_kernel(query: Tensor, dropout: float) -> bool:
    """Whether `dropped_attention` is the quick way: dropout on a CPU, not inside a graph that is being compiled."""
    return 0 < dropout < 1 and query.device.type == "cpu" and not torch.compiler.is_compiling()


def dropped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    dropout: float,
    scale: float | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """As `F.scaled_dot_product_attention`; quick with dropout on the CPU, and that very function everywhere else.

    Args:
        query: [batch, heads, queries, dim], any floating type; half precision is computed in float32.
        key, value: [batch, heads, keys, dim].
        dropout: the probability with which a weight is dropped, exact to 1 / 65536; masks come from torch's generator.
        scale: of the scores; 1 / √dim if None.
        mask: bool [batch or 1, 1, queries, keys], True where a query sees a key. A query that sees nothing gets zeros.
        causal: without a mask, query i sees keys up to i.

    Returns:
        [batch, heads, queries, dim] of the query's type.
    """
    if not has_no_kernel(query, dropout):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal and mask is None, scale=scale
        )
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    blind = None
    if mask is not None:
        blind = ~mask.any(-1, keepdim=True)
        mask, blind = (mask | blind, blind) if bool(blind.any()) else (mask, None)
    elif causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril_()[None, None]
    out: Any = _DroppedAttention.apply(query, key, value, mask, dropout, scale)
    return out if blind is None else out.masked_fill(blind, 0.0)


class _DroppedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scale: float
    ) -> Tensor:
        wide = torch.promote_types(query.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            q, k, v = (t.to(wide).contiguous() for t in (query, key, value))
            q = q * scale
            bias = None if mask is None else q.new_zeros(mask.shape).masked_fill_(~mask, -torch.inf)
            out, halves, factor = _forward(q, k, v, bias, dropout)
        ctx.save_for_backward(q, k, v, halves)
        ctx.scale, ctx.factor = scale, factor
        ctx.types = query.dtype, key.dtype, value.dtype
        return out.to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, halves = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            grad_q, grad_k, grad_v = _backward(grad.to(q.dtype).contiguous() * (2 * ctx.factor), q, k, v, halves)
            grad_q.mul_(ctx.scale)  # q was saved scaled, so the gradient of k already carries the factor
        grads = zip((grad_q, grad_k, grad_v), ctx.types, strict=True)
        return *(part.to(kind) for part, kind in grads), None, None, None


def _forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> tuple[Tensor, Tensor, float]:
    """The result, the signed halves of the weights [batch, heads, queries, keys], the factor that keeps the mean."""
    halves, out = q.new_empty(*q.shape[:3], k.shape[2]), q.new_empty(*q.shape[:3], v.shape[3])
    nothing, factor = q.new_zeros(()), 1.0
    for rows, qs, ks, vs, outs, half in _pieces(q, k, v, out, halves):
        weights = torch.bmm(qs, ks.mT)
        if bias is not None:
            near = bias if len(bias) == 1 else bias[rows]
            weights.view(rows.stop - rows.start, -1, *weights.shape[1:]).add_(near)
        torch.softmax(weights, -1, out=weights)
        kept, factor = keep_mask(weights.shape, dropout)
        left = torch.where(kept, weights, nothing)
        torch.sub(left, weights, alpha=0.5, out=half)
        torch.bmm(left, vs, out=outs)
    return out.mul_(factor), halves, factor


def _backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, halves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`grad` carries 2 · factor, which makes of a kept half the dropped-out weight."""
    grad_q, grad_k, grad_v = (torch.empty_like(t) for t in (q, k, v))
    for _, half, grads, qs, ks, vs, out_q, out_k, out_v in _pieces(halves, grad, q, k, v, grad_q, grad_k, grad_v):
        left = half.clamp_min(0)
        torch.bmm(left.mT, grads, out=out_v)
        slope = torch.bmm(grads, vs.mT).mul_(left)
        mean = slope.sum(-1, keepdim=True)
        slope.addcmul_(torch.abs(half, out=left), mean, value=-2)
        torch.bmm(slope, ks, out=out_q)
        torch.bmm(slope.mT, qs, out=out_k)
    return grad_q, grad_k, grad_v


def _pieces(*tensors: Tensor) -> Iterator[tuple[Any, ...]]:
    """For each piece its slice of rows and the views [rows * heads, …]: some whole rows, or some heads of one row.

    Args:
        tensors: contiguous [batch, heads, …]; one of them holds the scores, the largest.
    """
    batch, heads = tensors[0].shape[:2]
    matrix = max(t[0, 0].numel() for t in tensors) if batch and heads else 1
    many = max(1, _PIECE // max(1, matrix))
    row_step, head_step = max(1, many // max(1, heads)), min(heads, many)
    for row in range(0, batch, row_step):
        rows = slice(row, min(batch, row + row_step))
        for head in range(0, heads, head_step):
            yield rows, *(t[rows, head : head + head_step].flatten(0, 1) for t in tensors)
