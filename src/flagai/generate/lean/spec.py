"""A transformer as plain data: which matrices, norms and tables are applied in which order. Knows no family by name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flagai.generate.lean.products import Product


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Norm:
    """LayerNorm, or without a mean the root-mean-square norm (Zhang & Sennrich 2019)."""

    weight: Tensor | None
    bias: Tensor | None = None
    eps: float
    size: int
    rms: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        if self.rms:
            return F.rms_norm(x, (self.size,), self.weight, self.eps)
        return F.layer_norm(x, (self.size,), self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attention:
    """Self-attention; `inputs` gives queries, keys and values. Query head h reads key head h // (heads / kv_heads)."""

    norm: Norm
    inputs: Product
    output: Product
    heads: int
    kv_heads: int
    dim: int
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cross:
    """Attention to an encoder's states, of which `states` gives keys and values."""

    norm: Norm
    query: Product
    states: Product
    output: Product
    heads: int
    dim: int
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inner:
    """The two products between attentions; if `gate` is named, `up` gives gate and value side by side."""

    norm: Norm
    up: Product
    down: Product
    gate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """One layer; norms are in front of each part, or behind its residual sum."""

    attention: Attention
    cross: Cross | None = None
    inner: Inner
    norm_first: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Relative:
    """T5's biases by distance: `table` [buckets, heads] (Raffel et al. 2020, section 2.1)."""

    table: Tensor
    max_distance: int
    both_ways: bool

    def by_distance(self, distance: Tensor) -> Tensor:
        """Biases [heads, …] for key position minus query position, int64 […]."""
        return self.table[self._bucket(distance)].movedim(-1, 0)

    def _bucket(self, distance: Tensor) -> Tensor:
        buckets = self.table.shape[0]
        offset: Tensor | int = 0
        if self.both_ways:
            buckets //= 2
            offset = (distance > 0).long() * buckets
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = buckets // 2
        far = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        spread = (exact + (far * (buckets - exact)).long()).clamp(max=buckets - 1)
        return offset + torch.where(distance < exact, distance, spread)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rotary:
    """Rotary positions in the half-split layout (Su et al. 2021): `frequencies` fp32 [dim / 2]."""

    frequencies: Tensor
    scaling: float = 1.0

    def angles(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin, [tokens, 1, dim], for int64 [tokens]."""
        angles = positions[:, None].float() * self.frequencies
        both = torch.cat([angles, angles], 1)[:, None]
        return (both.cos() * self.scaling).to(dtype), (both.sin() * self.scaling).to(dtype)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """Tokens to states.

    Args:
        words: the embedding [vocabulary, width].
        positions: a table [positions, hidden] or None; token i has row i + `offset`.
        blocks: GLM's second table.
        factor: of the word embedding.
        inward, outward: products in front of the first and behind the last layer.
        first, last: norms there.
    """

    layers: tuple[Layer, ...]
    words: Tensor
    positions: Tensor | None = None
    offset: int = 0
    blocks: Tensor | None = None
    factor: float = 1.0
    inward: Product | None = None
    outward: Product | None = None
    first: Norm | None = None
    last: Norm | None = None
    relative: Relative | None = None
    rotary: Rotary | None = None

    def embed(self, ids: Tensor, positions: Tensor, blocks: Tensor | None = None) -> Tensor:
        """[tokens] → [tokens, hidden]."""
        x = F.embedding(ids, self.words)
        if self.factor != 1.0:
            x = x * self.factor
        if self.inward is not None:
            x = self.inward(x)
        if self.positions is not None:
            x = x + F.embedding(positions + self.offset, self.positions)
        if self.blocks is not None:
            assert blocks is not None
            x = x + F.embedding(blocks, self.blocks)
        return x if self.first is None else self.first(x)

    def products(self) -> Iterator[Product]:
        """All of them."""
        for layer in self.layers:
            yield from (layer.attention.inputs, layer.attention.output, layer.inner.up, layer.inner.down)
            if layer.cross is not None:
                yield from (layer.cross.query, layer.cross.states, layer.cross.output)
        yield from (product for product in (self.inward, self.outward) if product is not None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spec:
    """A model that writes.

    Args:
        decoder: what reads prompts and answers.
        encoder: what reads prompts instead, for a decoder with `Cross`.
        head: states to scores.
        head_first, head_norm: what BERT has in front of it.
        head_factor: of the states.
    """

    decoder: Stack
    encoder: Stack | None = None
    head: Product
    head_first: Product | None = None
    head_norm: Norm | None = None
    head_factor: float = 1.0

    def scores(self, states: Tensor) -> Tensor:
        """[rows, hidden] → fp32 [rows, vocabulary]."""
        if self.head_factor != 1.0:
            states = states * self.head_factor
        if self.head_first is not None:
            states = self.head_first(states)
        if self.head_norm is not None:
            states = self.head_norm(states)
        return self.head(states).float()

    def products(self) -> list[Product]:
        """All matrices that are multiplied with."""
        stacks = [self.decoder] if self.encoder is None else [self.decoder, self.encoder]
        return [*(product for stack in stacks for product in stack.products()), *self._heads()]

    def _heads(self) -> list[Product]:
        return [self.head] if self.head_first is None else [self.head_first, self.head]
