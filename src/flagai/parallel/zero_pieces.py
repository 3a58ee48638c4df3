"""Flat partitions of DeepSpeed as pieces of named parameters: runs of numbers, and the boxes that they are made of.

It knows the arithmetic of runs and boxes; it knows neither DeepSpeed nor what a step is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from flagai.parallel.parts import Box, Part, Read


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of a parameter that lies on this process.

    Args:
        name: the parameter's, as the single-device model has it.
        whole: the parameter's shape.
        start: place of the run's first number in the parameter read row by row.
        tensor: the numbers, one dimension: memory of a flat partition.
        group: number of the optimizer's parameter group; -1 for what is not trained.
    """

    name: str
    whole: tuple[int, ...]
    start: int
    tensor: Tensor
    group: int = -1

    def parts(self, key: str, tensor: Tensor) -> Iterator[Part]:
        """`tensor`, which lies as this piece does, by boxes of the parameter."""
        for box, numbers in _cut(self, tensor):
            yield Part(self.name, key, self.whole, box, numbers.view(box.shape))

    def fill(self, key: str, tensor: Tensor, read: Read) -> None:
        """Put saved numbers into `tensor`, which lies as this piece does."""
        for box, numbers in _cut(self, tensor):
            numbers.view(box.shape).copy_(read(self.name, key, box))


def boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[Box]:
    """The boxes of a run [start, stop) of a tensor read row by row, in that order.

    A run begins and ends within a row: at most 2·d − 1 boxes in d dimensions.
    """
    if start >= stop:
        return
    if not shape:
        yield Box((), ())
        return
    row = math.prod(shape[1:])
    first, head = divmod(start, row)
    last, tail = divmod(stop, row)
    if first == last:
        yield from _within(shape, first, head, tail)
        return
    if head:
        yield from _within(shape, first, head, row)
        first += 1
    if last > first:
        yield Box((first, *(0 for _ in shape[1:])), (last - first, *shape[1:]))
    yield from _within(shape, last, 0, tail)


def _within(shape: Sequence[int], row: int, start: int, stop: int) -> Iterator[Box]:
    for box in boxes(shape[1:], start, stop):
        yield Box((row, *box.offset), (1, *box.shape))


def _cut(piece: Piece, tensor: Tensor) -> Iterator[tuple[Box, Tensor]]:
    done = 0
    for box in boxes(piece.whole, piece.start, piece.start + tensor.numel()):
        size = math.prod(box.shape)
        yield box, tensor[done : done + size]
        done += size
