"""Weights, moments and weights in fp32 of a ZeRO run by boxes of named tensors, out and in. Knows no step and no file.

Flat partitions are cut anew by every stage and number of processes; names and boxes are not, so that what one layout
saved any other reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flagai.parallel import world, zero_engine
from flagai.parallel.parts import MASTER, Box, Entries, Part, Read, whole_box, whole_part
from flagai.parallel.zero_engine import Engine
from flagai.parallel.zero_optimizer import Flat
from flagai.parallel.zero_pieces import Piece


class ZeroState:
    """What a run is, wherever its numbers lie.

    Args:
        model: before it is placed.
        names: of parameters and buffers that are saved.
        stage: of ZeRO.
        exact: whether the placed weights will be in fp32.
    """

    def __init__(self, model: nn.Module, names: list[str], stage: int, *, exact: bool) -> None:
        self._model, self._names, self._stage, self._exact = model, names, stage, exact
        # DeepSpeed makes its fp32 weights from those in fewer bits; the ones that the model came with are better.
        self._first: dict[str, Tensor] = {} if exact else _in_fp32(model)
        self._engine: Engine | None = None
        self._flat: Flat | None = None

    def begin(self, engine: Engine, flat: Flat) -> None:
        """The optimizer is there."""
        self._engine, self._flat = engine, flat
        first, self._first = self._first, {}
        for piece, _ in flat.pieces():
            if piece.name in first:
                piece.fill("", piece.tensor, lambda name, _, box: first[name][box.slices])

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Whole tensors, one at a time, on all processes."""
        tensors: Mapping[str, Tensor] = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        for name in self._names:
            yield name, zero_engine.gathered(tensors[name])

    def parts(self) -> Iterator[Part]:
        """As `Strategy.parts`."""
        yield from self._weight_parts()
        if self._flat is None:
            return
        for piece, state in self._flat.pieces():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    yield from _moment(piece, key, value)
            if not self._exact:
                yield from piece.parts(MASTER, piece.tensor)

    def _weight_parts(self) -> Iterator[Part]:
        mine = {} if self._flat is None else {piece.name: piece for piece, _ in self._flat.pieces()}
        for piece in self._stored():
            trained = self._flat is not None and piece.name in self._flat.names
            if self._stage == 3 or (world.is_first() and not trained):
                yield from piece.parts("", piece.tensor)
            elif trained and (run := mine.get(piece.name)) is not None:
                yield from run.parts("", piece.tensor[run.start : run.start + run.tensor.numel()])
        if world.is_first():
            for name, buffer in self._buffers():
                yield whole_part(name, "", buffer)

    @torch.no_grad()
    def fill(self, read: Read, names: Collection[str] | None = None) -> None:
        """As `Strategy.fill`; weights in fp32 get the saved ones at their own precision."""
        wanted = set(self._names if names is None else names)
        for piece in self._stored():
            if piece.name in wanted:
                piece.fill("", piece.tensor, read)
                self._first.pop(piece.name, None)
        for name, buffer in self._buffers():
            if name in wanted:
                buffer.copy_(read(name, "", whole_box(buffer.shape)))
        if self._flat is None or self._engine is None:
            return
        for piece, _ in self._flat.pieces():
            if piece.name in wanted:
                piece.fill("", piece.tensor, read)
        self._engine.refresh()

    @torch.no_grad()
    def fill_moments(self, entries: Entries, read: Read) -> None:
        """Moments and weights in fp32 of what is trained here."""
        assert self._flat is not None and self._engine is not None, "optimizer() comes before load_state()"
        masters = False
        for piece, state in self._flat.pieces(fresh=True):
            for key, shape in entries.get(piece.name, {}).items():
                if key == MASTER:
                    masters = True
                    piece.fill(key, piece.tensor, read)
                elif not shape:
                    state[key] = read(piece.name, key, whole_box(shape)).to(piece.tensor.device, copy=True)
                else:
                    state[key] = moment = torch.zeros_like(piece.tensor)
                    piece.fill(key, moment, read)
        if world.any_of(masters):
            self._engine.from_masters()

    def _stored(self) -> Iterator[Piece]:
        for name, parameter in self._model.named_parameters():
            yield zero_engine.stored(name, parameter)

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        names = set(self._names)
        return ((name, buffer) for name, buffer in self._model.named_buffers() if name in names)


def _moment(piece: Piece, key: str, value: Tensor) -> Iterator[Part]:
    """A moment lies as its piece does; a number beside it (a count of steps) is told by whom the first number is."""
    if value.dim():
        yield from piece.parts(key, value)
    elif piece.start == 0:
        yield Part(piece.name, key, (), Box((), ()), value.detach())


def _in_fp32(model: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Any] = dict(model.named_parameters())
    return {n: p.detach() for n, p in found.items() if p.requires_grad and p.dtype == torch.float32 and not p.is_meta}
