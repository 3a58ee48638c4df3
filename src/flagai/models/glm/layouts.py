"""How a published GLM names and cuts its tensors, and how ours does: names, thirds, model-parallel parts.

It knows tensors and names only: no file, no folder, no model class.

Published files differ in three ways from our model. Query, key and value are one tensor of 3 · hidden rows, in that
order and with no interleaving of heads; names carry one of three prefixes, or none; and a file may hold one of n
model-parallel parts. A part has a share of the rows of the word embedding, of each third of the fused tensor and of
the inner layer of the feed-forward network, a share of the columns of the two layers that lead out again, and all of
everything else (Shoeybi et al. 2019, "Megatron-LM", section 3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from flagai.errors import CheckpointError

Layout = Literal["flagai", "huggingface", "thudm", "flagai-original"]
"""ours; the remote-code folders of the hub; DeepSpeed folders of THUDM; folders of the original FlagAI"""
Cut = Literal["rows", "columns", "thirds", "whole"]
Shape = tuple[int, ...]

LAYOUTS: Final[tuple[Layout, ...]] = ("flagai", "huggingface", "thudm", "flagai-original")
WORDS: Final = "word_embeddings.weight"
POSITIONS: Final = ("transformer.position_embeddings.weight", "transformer.block_position_embeddings.weight")
SIGN: Final = POSITIONS[1]
"""the tensor that no other model has"""
HEADS: Final = ("dense.", "out_proj.", "classifier.")
"""of classifiers: the dense layer and the output of sequences, the output of tokens"""
SHOWN: Final = 8

_PREFIXES: Final = ("module.", "model.", "glm.")
_HEAD_NAMES: Final = {"pool_layer.": "dense.", "multichoice_head.": "out_proj."}
"""THUDM's words for the layers of a classifier"""
_FUSED: Final = re.compile(r"^(transformer\.layers\.\d+\.attention\.)query_key_value\.(weight|bias)$")
_PART: Final = re.compile(r"^(transformer\.layers\.\d+\.attention\.)(query|key|value)\.(weight|bias)$")
_PARTS: Final = ("query", "key", "value")
_LAYER: Final = re.compile(r"^transformer\.layers\.(\d+)\.")
_COUNTERS: Final = re.compile(r"(^|\.)inv_freq$")
"""a table that old code saved and every program computes"""


def bare_name(name: str) -> str | None:
    """The published name without prefixes; THUDM's heads under the names of the remote code; None for a counter."""
    while prefix := next((one for one in _PREFIXES if name.startswith(one)), None):
        name = name.removeprefix(prefix)
    for old, new in _HEAD_NAMES.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
    return None if _COUNTERS.search(name) else name


def original_name(bare: str) -> str:
    """What a classifier of the original calls a tensor: THUDM's words for its layers, `model.` before the rest."""
    old = next((old + bare.removeprefix(new) for old, new in _HEAD_NAMES.items() if bare.startswith(new)), None)
    return old or f"model.{bare}"


def fused_name(bare: str) -> tuple[str, int | None]:
    """The published name that a bare name belongs to, and which third of it it is (None: the whole tensor)."""
    match = _PART.match(bare)
    if match is None:
        return bare, None
    return f"{match[1]}query_key_value.{match[3]}", _PARTS.index(match[2])


def our_names(bare: str) -> tuple[str, ...]:
    """What our model calls a published tensor: three names for a fused one, no prefix for a head."""
    if match := _FUSED.match(bare):
        return tuple(f"glm.{match[1]}{part}.{match[2]}" for part in _PARTS)
    return (bare,) if is_head(bare) else (f"glm.{bare}",)


def is_head(bare: str) -> bool:
    """Whether a tensor belongs to a classifier on top of the model."""
    return bare.startswith(HEADS)


def cut_of(bare: str) -> Cut:
    """How a tensor is cut into model-parallel parts."""
    if _FUSED.match(bare):
        return "thirds"
    if bare == WORDS or ".mlp.dense_h_to_4h." in bare:
        return "rows"
    return "columns" if bare.endswith((".attention.dense.weight", ".mlp.dense_4h_to_h.weight")) else "whole"


def whole_shape(shape: Shape, cut: Cut, parts: int) -> Shape:
    """The shape of the whole tensor, from that of one of its equal parts."""
    if cut == "whole":
        return shape
    return (shape[0], shape[1] * parts) if cut == "columns" else (shape[0] * parts, *shape[1:])


def take(shards: Sequence[Tensor], cut: Cut, rank: int = 0, ranks: int = 1) -> Tensor:
    """Part `rank` of `ranks` of the tensor that `shards` make when joined, in memory of its own.

    One shard and several ranks is splitting, several shards and one rank is merging. Only the rows or columns that are
    wanted are read. Fused tensors go through `take_thirds`.
    """
    if cut == "whole":
        return shards[0].clone(memory_format=torch.contiguous_format)
    dim = 1 if cut == "columns" else 0
    size = sum(shard.shape[dim] for shard in shards) // ranks
    begin, at, found = rank * size, 0, []
    for shard in shards:
        low, high = max(begin - at, 0), min(begin + size - at, shard.shape[dim])
        if low < high:
            found.append(shard.narrow(dim, low, high - low))
        at += shard.shape[dim]
    return torch.cat(found, dim)


def take_thirds(shards: Sequence[Sequence[Tensor]], rank: int = 0, ranks: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of part `rank` of `ranks`, from the (query, key, value) of each shard."""
    q, k, v = (take([shard[third] for shard in shards], "rows", rank, ranks) for third in range(3))
    return q, k, v


def thirds_of(fused: Tensor) -> tuple[Tensor, ...]:
    """Views of query, key and value in a fused tensor [3 · n, …]."""
    return fused.chunk(3, dim=0)


# sizes


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the shapes of the tensors tell of a model; the number of heads is not among it."""

    num_layers: int
    hidden_size: int
    vocab_size: int
    max_sequence_length: int

    @property
    def num_parameters(self) -> int:
        """V·h + 2(P+1)·h + L·(12h² + 13h) + 2h, heads of classifiers not counted."""
        h = self.hidden_size
        rows = self.vocab_size + 2 * (self.max_sequence_length + 1) + 2
        return rows * h + self.num_layers * (12 * h * h + 13 * h)


def sizes_of(shapes: Mapping[str, Shape], *, where: str = "") -> Sizes:
    """The sizes of a model from the shapes of its whole tensors under bare names.

    Errors: `CheckpointError` where the tensors that tell them are not there.
    """
    if missing := [name for name in (WORDS, *POSITIONS) if len(shapes.get(name, ())) != 2]:
        raise CheckpointError(
            f"no {', '.join(missing)} among the {len(shapes)} tensors",
            expected="the tensors of a GLM of 2022",
            fix="copy or download the whole model",
            where=where,
        )
    layers = [int(match[1]) for name in shapes if (match := _LAYER.match(name))]
    return Sizes(
        num_layers=max(layers, default=-1) + 1,
        hidden_size=shapes[WORDS][1],
        vocab_size=shapes[WORDS][0],
        max_sequence_length=shapes[POSITIONS[0]][0] - 1,
    )


def expected_shapes(sizes: Sizes) -> dict[str, Shape]:
    """The 12 · layers + 5 tensors of a model of these sizes, by bare name, in the order of the published files."""
    h = sizes.hidden_size
    table = (sizes.max_sequence_length + 1, h)
    out: dict[str, Shape] = {WORDS: (sizes.vocab_size, h), POSITIONS[0]: table, POSITIONS[1]: table}
    for number in range(sizes.num_layers):
        layer = f"transformer.layers.{number}."
        out |= {f"{layer}input_layernorm.{kind}": (h,) for kind in ("weight", "bias")}
        out |= _linear(f"{layer}attention.query_key_value", 3 * h, h) | _linear(f"{layer}attention.dense", h, h)
        out |= {f"{layer}post_attention_layernorm.{kind}": (h,) for kind in ("weight", "bias")}
        out |= _linear(f"{layer}mlp.dense_h_to_4h", 4 * h, h) | _linear(f"{layer}mlp.dense_4h_to_h", h, 4 * h)
    return out | {f"transformer.final_layernorm.{kind}": (h,) for kind in ("weight", "bias")}


def _linear(name: str, rows: int, columns: int) -> dict[str, Shape]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def check_shapes(shapes: Mapping[str, Shape], *, where: str = "") -> Sizes:
    """The sizes of a model all of whose tensors are there, and none that belongs to another model.

    Errors: `CheckpointError` listing what is missing, what has no place (heads of classifiers have one) and what has
        another shape.
    """
    sizes = sizes_of(shapes, where=where)
    wanted = expected_shapes(sizes)
    if found := differences(shapes, wanted):
        raise CheckpointError(
            found,
            expected=f"the {len(wanted)} tensors of a GLM with {sizes.num_layers} layers",
            fix="copy or download the whole model again",
            where=where,
        )
    return sizes


def differences(shapes: Mapping[str, Shape], wanted: Mapping[str, Shape], *, heads: bool = False) -> str:
    """What is missing, has no place or has another shape than is wanted; "" where all is well.

    Args:
        heads: whether layers of classifiers must be the same too; else they may lack and may be left over.
    """
    missing = [name for name in wanted if name not in shapes and (heads or not is_head(name))]
    extra = [name for name in shapes if name not in wanted and (heads or not is_head(name))]
    wrong = [
        f"{name} is {list(shapes[name])}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in shapes and tuple(shapes[name]) != tuple(shape)
    ]
    problems = {"are missing": missing, "have no place in a GLM": extra, "have another shape": wrong}
    return "; ".join(f"{len(names)} tensors {what}: {listed(names)}" for what, names in problems.items() if names)


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many there are."""
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f", … ({len(names)} in all)" if len(names) > SHOWN else "")


# one row of one model

_TEN_B_CHINESE: Final = Sizes(num_layers=48, hidden_size=4096, vocab_size=50048, max_sequence_length=1024)
_EOP, _GMASK = 50007, 50009


def lacks_gmask(sizes: Sizes, source: Layout, target: Layout) -> bool:
    """Whether GLM-10B-Chinese goes to the layout of the hub from another.

    It was trained with one id for [gMASK] and the end of a piece. The tokenizers of the hub have [gMASK] at an id of
    its own, and the published copy there has the same row at both.
    """
    return sizes == _TEN_B_CHINESE and source != "huggingface" and target == "huggingface"


def with_gmask(words: Tensor) -> Tensor:
    """The word embedding with the row of [gMASK] set, in place."""
    words[_GMASK] = words[_EOP]
    return words
