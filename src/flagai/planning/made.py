"""The model of a run as ghosts: built like the real one, without its weights. Knows no layout and no step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flagai.auto import id2label
from flagai.models import dropped_attention, packing
from flagai.models.build import build_from_config, read_config
from flagai.models.loading import quiet_config
from flagai.models.lora import Base, add_lora
from flagai.planning.ghosts import Ghosts

if TYPE_CHECKING:
    from flagai.config import RunConfig
    from flagai.train.assemble import Ingredients

_PIECES = 256


class _FusedDropout(nn.Dropout):
    """Dropout as a GPU does it: one kernel, and a byte an element kept for backward."""

    def forward(self, input: Tensor) -> Tensor:
        """[any shape] → the same."""
        return torch.native_dropout(input, self.p, self.training)[0] if self.training and self.p else input


def make(config: RunConfig, parts: Ingredients, ghosts: Ghosts, *, kind: str) -> Any:
    """The model that `assemble.new_model` would build, of ghosts and in training.

    Args:
        kind: "cpu" or "cuda"; where the step is to run.
    """
    with ghosts:
        model = _body(config, parts, kind)
        if (lora := config.model.lora) is not None:
            base = Base(name="-", sha256="")
            model = add_lora(model, **lora.model_dump(), base=base, seed=config.train.seed)
        if config.train.packing is not False:
            packing.enable(model)
        if kind != "cpu":
            _fuse(model)
    return model.train()


def _body(config: RunConfig, parts: Ingredients, kind: str) -> Any:
    random = parts.folder is None
    source = config.model.config if parts.folder is None else read_config(parts.folder).to_dict()
    assert source is not None
    if kind != "cpu":  # fused kernels draw the dropout of attention themselves, and keep nothing of it
        full = quiet_config(source, "model.config").to_dict()  # the defaults of a family are no zeros either
        source = {key: 0.0 if _of_attention(key) else value for key, value in full.items()}
    return build_from_config(
        source,
        parts.task.head(),
        id2label=id2label(parts.task),
        pad_token_id=parts.tokenizer.pad_token_id,
        vocab_size=len(parts.tokenizer) if random else None,
        seed=config.train.seed,
    )


def _of_attention(key: str) -> bool:
    return "drop" in key and ("attention" in key or "attn" in key)


def _fuse(model: nn.Module) -> None:
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = _FusedDropout


@contextmanager
def larger_pieces(scores: int) -> Iterator[None]:
    """Attention with dropout goes through so many scores in a bounded number of pieces, instead of by the cache's size.

    The pieces are small change beside the scores, and each costs time here.
    """
    before = dropped_attention._PIECE
    dropped_attention._PIECE = max(before, scores // _PIECES)  # pyright: ignore[reportPrivateUsage]
    try:
        yield
    finally:
        dropped_attention._PIECE = before  # pyright: ignore[reportPrivateUsage]
