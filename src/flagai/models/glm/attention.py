"""Which token sees which, and attention over it. It knows tensors and lengths: no embedding, no layer, no task.

A GLM reads a context in both directions and writes answers behind it from left to right: token i sees token j where
j ≤ i or j < context_length (Du et al. 2022, section 2.1). That structure is kept as long as possible: no mask at all
where everything or everything before is seen, else one boolean [batch, 1, queries, keys] for all heads and layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from flagai.errors import DataError
from flagai.models.dropped_attention import dropped_attention, has_no_kernel


@dataclass(frozen=True, kw_only=True)
class Visibility:
    """What each query sees, in the form the attention function wants.

    Args:
        mask: bool [batch or 1, 1, queries, keys], a BlockMask of FlexAttention, or None where structure says it all.
        causal: with no mask, whether a token sees only itself and those before it; else it sees all.
        blind: bool [batch, 1, queries, 1] of rows that an explicit mask lets see nothing, None without such a mask.
    """

    mask: Any = None
    causal: bool = False
    blind: Tensor | None = None

    def of_queries(self, rows: Callable[[Tensor], Tensor]) -> Visibility:
        """The same for some of the queries, which `rows` chooses; the mask stays whole, attention itself cuts that."""
        return self if self.blind is None else replace(self, blind=rows(self.blind))


@dataclass(frozen=True, kw_only=True)
class Context:
    """The answers to the public arguments: who is a pad, where the context ends, or an explicit mask instead.

    Args:
        padding: bool [batch, keys], True for real tokens; None where all are.
        context_length: int [batch]; None for a plain left-to-right model.
        explicit: bool [batch or 1, 1, queries, keys].
    """

    padding: Tensor | None = None
    context_length: Tensor | None = None
    explicit: Tensor | None = None


def read_context(attention_mask: Tensor | None, context_length: Tensor | None, rows: int, *, pads: bool) -> Context:
    """The arguments of `forward` in one form.

    Args:
        attention_mask: 2-D [batch, keys] 1 for real tokens; 0-D or [batch] the original's separator, which is a
            context length; 4-D [batch or 1, 1, queries, keys] an explicit mask of zeros and ones.
        context_length: [batch] or a number.
        rows: the batch size.
        pads: whether pads are to be attended to, as the original does.

    Raises:
        DataError: another shape, or two context lengths.
    """
    if attention_mask is not None and attention_mask.dim() < 2:
        if context_length is not None:
            raise DataError("attention_mask is a separator, and context_length is given too", expected="one of them")
        context_length, attention_mask = attention_mask, None
    context_length = row_lengths(context_length, rows)
    if attention_mask is None:
        return Context(context_length=context_length)
    if attention_mask.dim() == 4 and attention_mask.shape[0] in (1, rows):
        return Context(explicit=_as_bool(attention_mask))
    if attention_mask.dim() != 2 or attention_mask.shape[0] != rows:
        raise DataError(
            f"attention_mask has the shape {list(attention_mask.shape)}",
            expected=f"[{rows}, tokens], [{rows}], a number, or [{rows}, 1, queries, keys]",
        )
    return Context(padding=None if pads else attention_mask != 0, context_length=context_length)


def row_lengths(context_length: Tensor | None, rows: int) -> Tensor | None:
    """A length, or one for each row, as [rows]. Errors: `DataError` for anything else."""
    if context_length is None:
        return None
    if context_length.is_floating_point() or context_length.numel() not in (1, rows):
        raise DataError(
            f"the context length is {context_length.dtype} of the shape {list(context_length.shape)}",
            expected=f"whole numbers, one for each of {rows} rows",
        )
    return context_length.reshape(-1).expand(rows)


def _as_bool(mask: Tensor) -> Tensor:
    if not mask.is_floating_point():
        return mask != 0
    if bool((mask < 0).any()):  # transformers' own additive form
        return mask == 0
    if not bool(mask.any()):
        raise DataError("an explicit mask of nothing but 0.0 may mean all or nothing", fix="give it as bool or int")
    return mask != 0


def visibility(context: Context, *, queries: int, past: Any, keys: int, device: torch.device, flex: bool) -> Visibility:
    """The mask of one forward pass, shared by its layers.

    Args:
        queries: tokens of this pass.
        past: tokens in the cache before it (a tensor for a static cache).
        keys: columns of keys; more than past + queries where a static cache is not full.
    """
    if context.padding is not None:
        _check_width(context.padding.shape[1], queries, past, keys)
    if context.explicit is not None:
        return _explicit(context.explicit, queries, keys, flex=flex)
    structure = None if flex else _structure(context, queries, past, keys, device)
    if structure is not None:
        return structure
    if flex:
        return Visibility(mask=_block_mask(context, queries, past, keys, device))
    return Visibility(mask=prefix_mask(context, queries=queries, past=past, keys=keys, device=device))


def _explicit(mask: Tensor, queries: int, keys: int, *, flex: bool) -> Visibility:
    if mask.shape[-2] not in (1, queries) or mask.shape[-1] < keys:
        raise DataError(
            f"the explicit mask has {mask.shape[-2]} rows of {mask.shape[-1]}",
            expected=f"1 or {queries} rows, the tokens given, of {keys}, what they may see",
        )
    mask = mask[..., -keys:]
    blind = ~mask.any(-1, keepdim=True)
    # In the original a row that sees nothing has equal scores everywhere: it sees the mean of all.
    seen = mask | blind
    return Visibility(mask=_as_block_mask(seen, queries, keys) if flex else seen, blind=blind)


def _as_block_mask(seen: Tensor, queries: int, keys: int) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    whole = seen.expand(-1, -1, queries, -1)

    def sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return whole[batch, 0, query, key]

    return create_block_mask(sees, len(whole), None, queries, keys, device=seen.device)


def _structure(context: Context, queries: int, past: Any, keys: int, device: torch.device) -> Visibility | None:
    """The cases without a mask; None where one is needed. Values are looked at only where that costs no waiting."""
    if isinstance(past, Tensor) or keys != past + queries:
        return None
    cheap = device.type == "cpu" and not torch.compiler.is_compiling()
    if context.padding is not None and not (cheap and bool(context.padding.all())):
        return None
    if queries == 1:
        return Visibility()
    if past:
        return None
    if context.context_length is None:
        return Visibility(causal=True)
    if not cheap:
        return None
    shortest, longest = context.context_length.aminmax()
    if int(shortest) >= queries - 1:  # the one answer token sees everything anyway
        return Visibility() if int(shortest) >= queries else None
    return Visibility(causal=True) if int(longest) <= 1 else None


def _check_width(width: int, queries: int, past: Any, keys: int) -> None:
    """Past and present tokens; for a static cache, whose past is a tensor, any width it can hold."""
    static = isinstance(past, Tensor) or keys != past + queries
    if width > keys or (not static and width != keys):
        raise DataError(
            f"attention_mask has {width} columns",
            expected=f"{'at most ' if static else ''}{keys}, past and present tokens",
        )


def prefix_mask(context: Context, *, queries: int, past: Any, keys: int, device: torch.device) -> Tensor:
    """True where a query sees a key: bool [batch or 1, 1, queries, keys].

    A pad sees itself, so that no row is empty; nobody reads what comes of it.
    """
    columns = torch.arange(keys, device=device)
    rows = torch.arange(queries, device=device)[:, None] + past
    seen = (columns <= rows)[None]
    if context.context_length is not None:
        in_context = columns < context.context_length[:, None].to(device)
        seen = seen | (in_context & (columns < past + queries))[:, None]
    if context.padding is not None:
        seen = seen & _to_width(context.padding, keys)[:, None]
        seen = seen | (columns == rows)
    return seen[:, None]


def _to_width(padding: Tensor, keys: int) -> Tensor:
    """The columns of a static cache that are still empty count as pads."""
    return torch.nn.functional.pad(padding, (0, keys - padding.shape[1]))


def _block_mask(context: Context, queries: int, past: Any, keys: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    lengths, padding = context.context_length, context.padding
    real = None if padding is None else _to_width(padding, keys)
    rows = max(len(t) for t in (lengths, real) if t is not None) if lengths is not None or real is not None else 1
    ends = torch.zeros(rows, dtype=torch.long, device=device) if lengths is None else lengths.to(device)
    shown = torch.ones(1, keys, dtype=torch.bool, device=device).expand(rows, keys) if real is None else real

    def sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
        near = (key <= query + past) | ((key < ends[batch]) & (key < past + queries))
        return (near & shown[batch, key]) | (key == query + past)

    return create_block_mask(sees, rows, None, queries, keys, device=device)


def is_slow_dropout(name: Any, query: Tensor, dropout: float, plan: Any = None) -> bool:
    """Whether SDPA would run its general path, so that `dropping_attention` takes its place.

    Args:
        name: the configuration's `_attn_implementation`; what packing puts there is SDPA where it has no plan.
        plan: of a packed batch, whose own function knows how to cut it.
    """
    return plan is None and name in ("sdpa", "flagai_packed") and has_no_kernel(query, dropout)


def dropping_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`dropped_attention` in the form that transformers calls; shapes as for `eager_attention`."""
    seen = None if attention_mask is None else attention_mask.expand(-1, -1, query.shape[2], -1)
    out = dropped_attention(query, key, value, dropout=dropout, scale=scaling, mask=seen, causal=is_causal)
    return out.transpose(1, 2), None


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """The slow twin, written out: softmax(Q Kᵀ · scaling) V with the original's scaling trick for half precision.

    Args:
        query, key, value: [batch, heads, tokens, dim].

    Returns:
        [batch, tokens, heads, dim] and the weights [batch, heads, queries, keys].
    """
    factor = float(getattr(module, "attention_scale", 1.0))
    root = factor**0.5
    scores = (query / root) @ (key * (scaling / root)).mT
    if factor != 1.0:
        scores = (scores - scores.amax(-1, keepdim=True)) * factor
    if is_causal and attention_mask is None:
        attention_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    out = nn.functional.dropout(weights, dropout, module.training) @ value
    return out.transpose(1, 2), weights
