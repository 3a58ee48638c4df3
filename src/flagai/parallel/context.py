"""One long text on several processes: each keeps its share of the tokens through all layers. Knows no family, no step.

Only attention needs other tokens than its own. all-gather: the keys and values of all come to each process, which asks
with its own queries. ulysses: tokens change places with heads, so that each process has all tokens of its heads, and
back again. Both are exact, whatever the mask. Sources: Liu et al. 2023, "Ring Attention" (arXiv:2310.01889), of which
the former is the variant in one message; Jacobs et al. 2023, "DeepSpeed Ulysses" (arXiv:2309.14509).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from flagai.errors import ModelError
from flagai.models import packing
from flagai.models.dropped_attention import dropped_attention
from flagai.models.plan import Plan
from flagai.parallel.plan import lists_of, runs
from flagai.parallel.tokens import JoinToDivide, Tokens, around

NAME: Final = "flagai_context"
_SHARE: Final = "flagai_context"
# What transformers hands to each layer with a number for each token: tensors [batch, tokens, …] or tuples of them.
_FOR_EACH_TOKEN: Final = ("position_embeddings", "position_ids")


class Context(Tokens):
    """The share of a process of each text: equally many tokens on all, zeros behind the end of a text.

    Models read the number of heads from the size of what they are given, which nothing has no answer to.

    Args:
        method: "all-gather" or "ulysses".
    """

    def __init__(self, group: Any, method: str) -> None:
        super().__init__(group)
        self.method = method

    def held(self, length: int) -> int:
        """As many as every other process."""
        return self._size(length)

    def rows(self, whole: Tensor) -> Tensor:
        """My rows of […, queries, keys], where what stands behind the end sees all; one row for all stays."""
        if whole.shape[-2] == 1 != self.length:
            return whole
        mine = whole[..., self.first : self.first + self.held(self.length), :]
        missing = self.held(self.length) - mine.shape[-2]
        seen = mine.new_full((*mine.shape[:-2], missing, mine.shape[-1]), mine.dtype == torch.bool)
        return torch.cat([mine, seen], -2) if missing else mine

    @property
    def first(self) -> int:
        """The place of my first token in the text."""
        return self.index * self._size(self.length)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Every process computes all tokens, for what calls the model token by token."""
        self.shares = False
        try:
            yield
        finally:
            self.shares = True


def check_context(model: nn.Module, plan: Plan | None, count: int, method: str, *, tensor: int = 1) -> None:
    """Whether the tokens of a model can be shared so, before anything is changed. Raises ModelError."""
    config = getattr(model, "config", None)
    family = plan.family if plan is not None else getattr(config, "model_type", type(model).__name__)
    layers = lists_of(model, plan.stages) if plan is not None and plan.stages is not None else []
    if len(layers) != 1 or not _bases(model):
        raise ModelError(
            f"the tokens of {family} cannot be shared",
            where="parallel.context",
            expected="a family of one list of layers: GLM, BERT, RoBERTa, ModernBERT, GPT-2, OPT, Llama-like ones",
            fix="use parallel.tensor with parallel.sequence, or parallel.recompute",
        )
    heads = getattr(_bases(model)[0].config, "num_attention_heads", count)
    if method == "ulysses" and heads // tensor % count:
        raise ModelError(
            f"{count} processes cannot share {heads // tensor} heads of {family}",
            where="parallel.context",
            expected=f"a number that divides {heads // tensor}",
            fix="set parallel.context_method=all-gather, which needs no heads",
        )


def share_tokens(model: nn.Module, plan: Plan, context: Context) -> list[str]:
    """Share the tokens of a model in place; after `divide`, whose shares lie inside of these.

    Returns:
        The parameters that each process applies to its tokens only, whose gradients are to be summed.
    """
    packing.disable(model)  # a packed row has no length that could be cut evenly for each text
    for base in _bases(model):
        base.set_attn_implementation(NAME)
    names: list[str] = []
    for run in runs(model, plan):
        around(list(run.values()), context, outside=True)
        for name, layer in run.items():
            layer.register_forward_pre_hook(lambda _, a, k: _mine(context, a, k), with_kwargs=True)
            names += [f"{name}.{leaf}" for leaf, _ in layer.named_parameters()]
            for module in layer.modules():
                setattr(module, _SHARE, context)
    return names


def _bases(model: nn.Module) -> list[PreTrainedModel]:
    found = [m for m in model.modules() if isinstance(m, PreTrainedModel) and m.base_model is m]
    return [m for m in found if getattr(m, "_supports_sdpa", False)]


def _mine(context: Context, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The arguments of a layer that has my tokens only."""
    if not context.shares:
        return args, kwargs
    mine = {name: _cut(context, kwargs[name]) for name in _FOR_EACH_TOKEN if kwargs.get(name) is not None}
    args = tuple(a.of_queries(context.rows) if hasattr(a, "of_queries") else a for a in args)
    return args, kwargs | mine


def _cut(context: Context, value: Any) -> Any:
    return tuple(context.cut(v) for v in value) if isinstance(value, tuple) else context.cut(value)


def context_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in each layer; without shares it is that library's own SDPA path.

    Args:
        query, key, value: [batch, heads, my tokens, dim].
        attention_mask: of the whole text, [batch or 1, 1 or heads, tokens, tokens]; None: all, or all before.

    Returns:
        [batch, my tokens, heads, dim] and None (no attention weights).
    """
    context: Context | None = getattr(module, _SHARE, None)
    if context is None or not context.shares:
        call = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal, **kwargs}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **call)
    causal = attention_mask is None and bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    attend = _by_heads if context.method == "ulysses" else _by_queries
    out = attend(context, query, key, value, attention_mask, dropout=dropout, scale=scaling, causal=causal)
    return out.transpose(1, 2), None


def _by_queries(
    context: Context, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool, **options: Any
) -> Tensor:
    """My queries, the keys and values of all in one message."""
    heads, end = key.shape[1], context.first + query.shape[2]
    both = torch.cat([key, value], 1).transpose(1, 2).flatten(2)
    key, value = JoinToDivide.apply(both, context).unflatten(2, (2 * heads, -1)).transpose(1, 2).split(heads, 1)  # type: ignore[union-attr]
    if mask is not None:
        mask = context.rows(mask)
    elif causal:
        key, value = key[:, :, :end], value[:, :, :end]
        mask = _up_to_mine(query, key.shape[2], context.first)
    return _attention(query, key, value, mask, **options)


def _up_to_mine(query: Tensor, keys: int, first: int) -> Any:
    """Each query sees itself and what stands before it; on a GPU in the form that a fused kernel takes."""
    mine = query.shape[2]
    if query.device.type == "cuda" and keys == first + mine:
        from torch.nn.attention.bias import causal_lower_right

        return causal_lower_right(mine, keys)
    return torch.ones(mine, keys, dtype=torch.bool, device=query.device).tril_(first)[None, None]


def _by_heads(
    context: Context, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool, **options: Any
) -> Tensor:
    """All tokens of my heads."""
    heads, mine = query.shape[1], query.shape[2]
    if key.shape[1] % context.count:  # fewer heads of keys than processes: each query head gets its own
        key, value = (t.repeat_interleave(heads // t.shape[1], 1) for t in (key, value))
    query, key, value = (_Exchange.apply(t, context, context.length, True) for t in (query, key, value))
    if mask is not None and mask.shape[1] > 1:
        mask = mask.chunk(context.count, 1)[context.index]
    out = _attention(query, key, value, mask, causal=causal, **options)
    return _Exchange.apply(out, context, mine, False)  # type: ignore[return-value]


def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Any, *, dropout: float, scale: float | None, causal: bool = False
) -> Tensor:
    if (groups := query.shape[1] // key.shape[1]) > 1:
        key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
    return dropped_attention(query, key, value, dropout=dropout, scale=scale, mask=mask, causal=causal)


class _Exchange(torch.autograd.Function):
    """My tokens of all heads [batch, heads, mine, dim] → all tokens of my heads, or back; `length` of the result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, context: Context, length: int, to_heads: bool) -> Tensor:
        ctx.context, ctx.length, ctx.to_heads = context, x.shape[2], to_heads
        return _exchanged(x, context, length, to_heads=to_heads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _exchanged(grads[0], ctx.context, ctx.length, to_heads=not ctx.to_heads), None, None, None


def _exchanged(x: Tensor, context: Context, length: int, *, to_heads: bool) -> Tensor:
    count = context.count
    size = -(-(length if to_heads else x.shape[2]) // count)
    padded = functional.pad(x, (0, 0, 0, (size if to_heads else size * count) - x.shape[2]))
    dim, parts = (1, (count, -1)) if to_heads else (2, (count, size))
    sent = padded.unflatten(dim, parts).movedim(dim, 0).contiguous()
    came = torch.empty_like(sent)
    dist.all_to_all_single(came, sent, group=context.group)
    if to_heads:
        return came.movedim(0, 2).flatten(2, 3)[:, :, :length].contiguous()
    return came.movedim(0, 1).flatten(1, 2)[:, :, :length].contiguous()


# The mask function is that of plain SDPA: a name without one would attend to pads in silence.
AttentionInterface.register(NAME, context_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
