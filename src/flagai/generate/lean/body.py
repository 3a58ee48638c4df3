"""Tokens through the layers of a `Stack`: prompts at once, then one of every row. Knows no family and no search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from flagai.generate.lean.products import activate
from flagai.generate.lean.slots import Slots
from flagai.generate.lean.sources import Plan, Sources
from flagai.generate.lean.spec import Attention, Cross, Inner, Relative, Stack


class Attend(Protocol):
    """Attention of the tokens at hand; what they see is its own affair."""

    def itself(self, layer: int, part: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [tokens, heads × dim], k and v [tokens, kv_heads × dim] → [tokens, heads × dim]."""
        ...

    def encoder(self, layer: int, part: Cross, q: Tensor) -> Tensor:
        """[tokens, heads × dim] → the same shape."""
        ...


def run(stack: Stack, x: Tensor, attend: Attend) -> Tensor:
    """[tokens, hidden] → the states behind the last layer."""
    for number, layer in enumerate(stack.layers):
        part, first = layer.attention, layer.norm_first
        mixed = attend.itself(number, part, *part.inputs.parts(part.norm(x) if first else x))
        x = part.output(mixed).add_(x)
        x = x if first else part.norm(x)
        if layer.cross is not None:
            other = layer.cross
            mixed = attend.encoder(number, other, other.query(other.norm(x) if first else x))
            x = other.output(mixed).add_(x)
            x = x if first else other.norm(x)
        x = _inner(layer.inner, layer.inner.norm(x) if first else x).add_(x)
        x = x if first else layer.inner.norm(x)
    x = x if stack.last is None else stack.last(x)
    return x if stack.outward is None else stack.outward(x)


def _inner(part: Inner, x: Tensor) -> Tensor:
    if not part.gate:
        return part.down(part.up(x))
    gate, value = part.up.parts(x)
    return part.down(activate(gate, part.gate) * value)


class Reading:
    """Rows of tokens that are read at once; their keys and values go into slots, where there are any.

    Args:
        stack: for its positions.
        lengths: tokens of each row, one behind the other.
        contexts: first tokens of each that are seen by all of it; the others see what is not behind them.
        slots, first: where keys go.
        sources: texts for cross-attention, row i sees text `texts[i]`.
    """

    def __init__(
        self,
        stack: Stack,
        lengths: Sequence[int],
        contexts: Sequence[int],
        *,
        positions: Tensor,
        dtype: torch.dtype,
        slots: Slots | None = None,
        first: int = 0,
        sources: Sources | None = None,
        texts: Sequence[tuple[int, int]] = (),
    ) -> None:
        self._relative, self._slots, self._first, self._sources = stack.relative, slots, first, sources
        self._lengths, self._contexts, self._texts = lengths, contexts, texts
        self._even = len(set(zip(lengths, contexts, strict=True))) == 1
        self._masks: dict[tuple[int, int], Tensor | None] = {}
        self._device = positions.device
        self._angles = None if stack.rotary is None else stack.rotary.angles(positions, dtype)

    def itself(self, layer: int, part: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = turned(q, k, part, self._angles)
        queries, keys, values = (_by_heads(one, part.dim) for one in (q, k, v))
        rows = len(self._lengths) if self._even else 1
        outputs, start = [], 0
        groups = [(0, self._lengths[0])] if self._even else list(enumerate(self._lengths))
        for row, length in groups:
            end = start + rows * length
            several = (one[start:end].unflatten(0, (rows, length)).transpose(1, 2) for one in (queries, keys, values))
            a, b, c = several
            self._keep(layer, row, rows, length, b, c)
            mixed = self._mix(row, a, b, c, part)
            outputs.append(mixed.transpose(1, 2).reshape(rows * length, -1))
            start = end
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def encoder(self, layer: int, part: Cross, q: Tensor) -> Tensor:
        assert self._sources is not None
        keys, values = self._sources.keys[layer], self._sources.values[layer]
        outputs, start = [], 0
        for length, (text, columns) in zip(self._lengths, self._texts, strict=True):
            query = _by_heads(q[start : start + length], part.dim).transpose(0, 1)[None].to(keys.dtype)
            seen = [one[text : text + 1, :, :columns] for one in (keys, values)]
            mixed = F.scaled_dot_product_attention(query, seen[0], seen[1], scale=part.scale)
            outputs.append(mixed[0].transpose(0, 1).reshape(length, -1))
            start += length
        return torch.cat(outputs).to(q.dtype)

    def _keep(self, layer: int, row: int, rows: int, length: int, keys: Tensor, values: Tensor) -> None:
        if self._slots is not None:
            first = self._first + row
            self._slots.keys[layer][first : first + rows, :, :length] = keys
            self._slots.values[layer][first : first + rows, :, :length] = values

    def _mix(self, row: int, q: Tensor, k: Tensor, v: Tensor, part: Attention) -> Tensor:
        length, context = self._lengths[row], self._contexts[row]
        causal = context == 0 and self._relative is None and length > 1
        mask = None if causal else self._mask(length, context, q.dtype)
        grouped = part.kv_heads != part.heads
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=part.scale, enable_gqa=grouped
        )

    def _mask(self, length: int, context: int, dtype: torch.dtype) -> Tensor | None:
        """[1, heads or 1, length, length], the same for all layers; None where every token sees all."""
        key = (length, context)
        if key not in self._masks:
            self._masks[key] = _mask(length, context, self._relative, dtype, self._device)
        return self._masks[key]


def _mask(
    length: int, context: int, relative: Relative | None, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    places = torch.arange(length, device=device)
    seen = (places <= places[:, None]) | (places < context)
    whole = context >= length or length == 1
    if relative is None:
        return None if whole else seen[None, None]
    biases = relative.by_distance(places - places[:, None]).to(dtype)[None]
    return biases if whole else biases.masked_fill(~seen, -torch.inf)


class Step:
    """One token of every row behind what its slot has."""

    def __init__(self, stack: Stack, slots: Slots, plan: Plan | None, sources: Sources | None, dtype: torch.dtype):
        lengths = [slot.length for slot in slots.slots]
        self.rows, self._longest = len(lengths), 1 + max(lengths)
        slots.reserve(self.rows, self._longest)
        self._slots, self._plan, self._sources, self._dtype = slots, plan, sources, dtype
        device = slots.keys[0].device
        self._even = min(lengths) == max(lengths)
        self.positions = torch.tensor(lengths, device=device)
        self._index = torch.arange(self.rows, device=device)
        self._angles = None if stack.rotary is None else stack.rotary.angles(self.positions, dtype)
        self._mask = self._hidden(stack.layers[0].attention, stack.relative)

    def itself(self, layer: int, part: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = turned(q, k, part, self._angles)
        keys, values = self._slots.keys[layer], self._slots.values[layer]
        self._write(keys, _by_heads(k, part.dim))
        self._write(values, _by_heads(v, part.dim))
        queries = q.reshape(self.rows * part.kv_heads, -1, part.dim)
        mixed = mix(queries, self._seen(keys), self._seen(values), self._mask, part.scale)
        return mixed.view(self.rows, -1).to(self._dtype)

    def encoder(self, layer: int, part: Cross, q: Tensor) -> Tensor:
        assert self._sources is not None and self._plan is not None
        keys, values = (one[layer].flatten(0, 1) for one in (self._sources.keys, self._sources.values))
        plan = self._plan
        if plan.gather is None:
            mixed = mix(q.reshape(-1, 1, part.dim), keys, values, plan.mask, part.scale)
            return mixed.view(self.rows, -1).to(self._dtype)
        shape = (-1, plan.most, part.heads, part.dim)
        queries = q[plan.gather].view(shape).transpose(1, 2).reshape(-1, plan.most, part.dim)
        mixed = mix(queries, keys, values, plan.mask, part.scale).view(-1, part.heads, plan.most, part.dim)
        return mixed.transpose(1, 2).reshape(-1, part.heads * part.dim)[plan.scatter].to(self._dtype)

    def _write(self, cache: Tensor, new: Tensor) -> None:
        if self._even:
            cache[: self.rows, :, self._longest - 1] = new
        else:
            cache[self._index, :, self.positions] = new.to(cache.dtype)

    def _seen(self, cache: Tensor) -> Tensor:
        """[rows × kv_heads, columns, dim], a view."""
        return cache[: self.rows].flatten(0, 1)[:, : self._longest]

    def _hidden(self, part: Attention, relative: Relative | None) -> Tensor | None:
        """What is added to scores, [rows × kv_heads, 1, columns], the same for all layers; None: nothing."""
        if self._even and relative is None:
            return None
        dtype = self._slots.keys[0].dtype
        columns = torch.arange(self._longest, device=self.positions.device)
        distance = columns - (self.positions[:1] if self._even else self.positions)[:, None]
        if relative is None:
            added = torch.zeros(distance.shape, dtype=dtype, device=distance.device)[:, None]
        else:
            added = relative.by_distance(distance).transpose(0, 1).to(dtype)
        if not self._even:
            added = added.masked_fill((distance > 0)[:, None], -torch.inf)
        return added.expand(self.rows, part.kv_heads, -1).reshape(self.rows * part.kv_heads, 1, -1)


def mix(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(q kᵀ · scale + mask) v for [batch, queries, dim] and [batch, keys, dim], in the dtype of the keys."""
    q, keys = q.to(k.dtype), k.transpose(1, 2)
    if mask is None:
        scores = torch.baddbmm(q.new_empty(1), q, keys, beta=0, alpha=scale)
    else:
        scores = torch.baddbmm(mask, q, keys, alpha=scale)
    if scores.dtype == torch.float32:
        return torch.bmm(scores.softmax(-1), v)
    return torch.bmm(scores.softmax(-1, dtype=torch.float32).to(v.dtype), v)


def turned(q: Tensor, k: Tensor, part: Attention, angles: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Queries and keys with rotary positions, where there are any."""
    if angles is None:
        return q, k
    return _turn(q, part.dim, *angles), _turn(k, part.dim, *angles)


def _turn(x: Tensor, dim: int, cos: Tensor, sin: Tensor) -> Tensor:
    heads = _by_heads(x, dim)
    half = dim // 2
    turned = torch.cat([-heads[..., half:], heads[..., :half]], -1)
    return (heads * cos + turned * sin).flatten(1)


def _by_heads(x: Tensor, dim: int) -> Tensor:
    return x.view(x.shape[0], -1, dim)
