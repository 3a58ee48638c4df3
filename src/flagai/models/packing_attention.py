"""Attention over a packed row: each text sees itself only, computed for many texts of near-equal length at once.

It knows a plan and tensors: not which model they come from, nor how a batch was packed.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from flagai.models.dropout import keep_mask
from flagai.models.dropped_attention import dropped_attention, has_no_kernel
from flagai.models.packing_plan import Buckets, Plan

NAME: Final = "flagai_packed"

# Scores of the bucketed path are kept for backward, so its memory grows with the square of the length.
_LONGEST_BUCKETED: Final = 256
# With dropout every path keeps them; what counts is that longer texts fill the pieces of `dropped_attention` (measured:
# at 100 to 256 tokens that is 12 to 28 % faster than buckets, at 10 to 64 mostly 10 to 20 % slower).
_LONGEST_DROPPED: Final = 64
# Below this many tokens for each distinct length, the calls cost more than the arithmetic (measured).
_FRAGMENTED: Final = 128


def _is_explicit(mask: Tensor | None) -> bool:
    """Whether a mask says for each query which keys it sees, as that of an encoder that learns to write does."""
    return mask is not None and mask.dim() == 4 and mask.dtype == torch.bool


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    flagai_packed: Plan | None = None,
    context_length: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in each layer; without a plan it is that library's own SDPA path.

    Args:
        query, key, value: [1, heads, T, dim] of a packed row.
        attention_mask: ignored where there is a plan.
        sliding_window: texts longer than this attend to a distance of `sliding_window - 1` to either side.
        context_length: [rows] of the padded batch, a GLM's: what follows a text's context sees what stands before it.

    Returns:
        [1, T, heads, dim] and None (no attention weights).
    """
    if flagai_packed is None:
        if _is_explicit(attention_mask) and query.shape == key.shape and has_no_kernel(query, dropout):
            out = dropped_attention(query, key, value, dropout=dropout, scale=scaling, mask=attention_mask)
            return out.transpose(1, 2), None
        call = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal, **kwargs}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **call)
    plan = flagai_packed
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    contexts = context_length if context_length is None or plan.order is None else context_length[plan.order]
    window = sliding_window if sliding_window is not None and sliding_window <= plan.lengths[-1] - 1 else None
    # bfloat16 attention of short texts on a CPU is slower than float32 (its backward five times), and less exact.
    narrow = query.device.type == "cpu" and query.dtype in (torch.bfloat16, torch.float16)
    tokens = [t[0].transpose(0, 1) for t in (query, key, value)]
    with torch.autocast(query.device.type, enabled=False):
        q, k, v = (t.float() for t in tokens) if narrow else tokens
        if contexts is not None:
            out = _with_contexts(q, k, v, plan, contexts, dropout=dropout, scale=scale)
        elif not causal and window is None and _wants_buckets(plan, query, dropout):
            buckets = plan.buckets(query.shape[1], query.device)
            out = _BucketedAttention.apply(q, k, v, buckets, dropout, scale)
        else:
            out = _by_length(q, k, v, plan, dropout=dropout, scale=scale, causal=causal, window=window)
    return out.to(query.dtype).unsqueeze(0), None


def _wants_buckets(plan: Plan, query: Tensor, dropout: float) -> bool:
    if query.device.type != "cpu":
        return False
    if dropout > 0:
        return plan.lengths[-1] <= _LONGEST_DROPPED
    return plan.lengths[-1] <= _LONGEST_BUCKETED and plan.tokens < _FRAGMENTED * len(plan.groups)


def _by_length(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, *, dropout: float, scale: float, causal: bool, window: int | None
) -> Tensor:
    """One call for each distinct length, on views of [T, heads, dim]."""
    sizes = [rows * length for rows, length in plan.groups]  # split, not slices: a slice's backward fills all of T
    outs: list[Tensor] = []
    for (rows, length), *parts in zip(plan.groups, q.split(sizes), k.split(sizes), v.split(sizes), strict=True):
        qs, ks, vs = (part.unflatten(0, (rows, length)).transpose(1, 2) for part in parts)
        near = None if window is None or length <= window else _band(length, window, causal, q.device)
        out = dropped_attention(qs, ks, vs, dropout=dropout, scale=scale, mask=near, causal=causal)
        outs.append(out.transpose(1, 2).flatten(0, 1))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _with_contexts(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, contexts: Tensor, *, dropout: float, scale: float
) -> Tensor:
    """As `_by_length` for texts whose first part is read both ways; `contexts` [rows] in packed order."""
    sizes = [rows * length for rows, length in plan.groups]
    outs: list[Tensor] = []
    first = 0
    for (rows, length), *parts in zip(plan.groups, q.split(sizes), k.split(sizes), v.split(sizes), strict=True):
        qs, ks, vs = (part.unflatten(0, (rows, length)).transpose(1, 2) for part in parts)
        places = torch.arange(length, device=q.device)
        ends = contexts[first : first + rows, None, None, None]
        seen = (places <= places[:, None]) | (places < ends)
        out = dropped_attention(qs, ks, vs, dropout=dropout, scale=scale, mask=seen)
        outs.append(out.transpose(1, 2).flatten(0, 1))
        first += rows
    return torch.cat(outs)


def _band(length: int, window: int, causal: bool, device: torch.device) -> Tensor:
    places = torch.arange(length, device=device)
    distance = places[:, None] - places
    near = distance.abs() < window
    return (near & (distance >= 0) if causal else near)[None, None]


class _BucketedAttention(torch.autograd.Function):
    """softmax(Q Kᵀ · scale) V by batched products over `Buckets` (Vaswani et al. 2017, eq. 1), dropout on the weights.

    Written out because a short text costs microseconds of arithmetic: elementwise steps run once over all buckets, and
    autograd sees one node instead of twenty for each length. q, k, v and the result are [T, heads, dim].
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, buckets: Buckets, dropout: float, scale: float) -> Tensor:
        heads = q.shape[1]
        q, k, v = (t.flatten(0, 1).index_select(0, buckets.gather) for t in (q, k, v))
        q.mul_(scale)
        weights = q.new_empty(sum(buckets.scores))
        for square, qs, ks, bias in zip(*_cut(buckets, weights, q, k), buckets.biases, strict=True):
            if bias is None:
                torch.bmm(qs, ks.mT, out=square)
            else:
                torch.baddbmm(bias.to(qs.dtype), qs, ks.mT, out=square)
            torch.softmax(square, -1, out=square)
        kept, factor = keep_mask(weights.shape, dropout) if dropout else (None, 1.0)
        out = torch.empty_like(v)
        for square, vs, outs in zip(*_cut(buckets, _drop(weights, kept, factor), v, out), strict=True):
            torch.bmm(square, vs, out=outs)
        ctx.save_for_backward(q, k, v, weights, kept)
        ctx.buckets, ctx.factor, ctx.scale = buckets, factor, scale
        return out.index_select(0, buckets.scatter).unflatten(0, (-1, heads))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            return *_bucketed_backward(ctx, grad), None, None, None


def _bucketed_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v, weights, kept = ctx.saved_tensors
    buckets, heads = ctx.buckets, grad.shape[1]
    grad = grad.flatten(0, 1).index_select(0, buckets.gather)
    if buckets.pad_slots is not None:
        grad.index_fill_(0, buckets.pad_slots, 0)  # a pad's query belongs to no token
    slopes = torch.empty_like(weights)
    grad_q, grad_k, grad_v = (torch.empty_like(t) for t in (q, k, v))
    dropped = _drop(weights, kept, ctx.factor)
    for slope, square, grads, vs, out in zip(*_cut(buckets, slopes, dropped, grad, v, grad_v), strict=True):
        torch.bmm(grads, vs.mT, out=slope)
        torch.bmm(square.mT, grads, out=out)
    slopes = _drop(slopes, kept, ctx.factor)
    for slope, square, qs, ks, out_q, out_k in zip(*_cut(buckets, slopes, weights, q, k, grad_q, grad_k), strict=True):
        slope = torch.ops.aten._softmax_backward_data(slope, square, -1, square.dtype)
        torch.bmm(slope, ks, out=out_q)
        torch.bmm(slope.mT, qs, out=out_k)
    grad_q.mul_(ctx.scale)  # q was saved scaled, so the gradient of k already carries the factor
    back = (t.index_select(0, buckets.scatter).unflatten(0, (-1, heads)) for t in (grad_q, grad_k, grad_v))
    return next(back), next(back), next(back)


def _cut(buckets: Buckets, *flats: Tensor) -> list[list[Tensor]]:
    """The views of each bucket: squares of a flat tensor of scores, rows of [S, dim]."""
    return [buckets.squares(flat) if flat.dim() == 1 else buckets.rows(flat) for flat in flats]


def _drop(weights: Tensor, kept: Tensor | None, factor: float) -> Tensor:
    return weights if kept is None else (weights * kept).mul_(factor)


# The mask function is that of plain SDPA, so that a batch that is not packed masks its pads. A packed batch brings its
# own four-dimensional mask, which transformers hands through untouched; a name without a mask function would be worse
# than useless, because then transformers makes no mask at all and pads are attended to in silence.
AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
