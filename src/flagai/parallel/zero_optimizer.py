"""A user's optimizer on the flat partitions of DeepSpeed: it sees named pieces, each with a state of its own.

It knows optimizers that treat every number by itself (SGD, Adam, …); it knows neither ZeRO's stages nor their exchange.
What nobody used in a step keeps still, as with a single process, where its gradient is None.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from flagai.errors import ConfigError
from flagai.parallel.zero_pieces import Piece

_BY_NUMBER: Final = (
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam,
    torch.optim.Adamax, torch.optim.RMSprop, torch.optim.Adadelta, torch.optim.Rprop, torch.optim.ASGD,
)  # fmt: skip


class Flat(torch.optim.Optimizer):
    """What DeepSpeed takes for the optimizer: its step is that of `inner` on the pieces of a partition.

    Args:
        inner: built over the placed model's parameters.

    Raises:
        ConfigError: an optimizer that looks at whole matrices, or nothing to train.
    """

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        if not isinstance(inner, _BY_NUMBER):
            raise ConfigError(
                f"{type(inner).__name__} cannot be divided by DeepSpeed",
                where="parallel.strategy",
                expected="an optimizer that treats every number by itself: "
                + ", ".join(t.__name__ for t in _BY_NUMBER),
                fix="take such an optimizer, or strategy ddp",
            )
        self.inner = inner
        self.used: set[str] = set()
        self._names: Collection[str] = frozenset()
        self._pieces: dict[int, list[tuple[Piece, nn.Parameter]]] = {}
        trained = [[p for p in group["params"] if p.requires_grad] for group in inner.param_groups]
        if not any(trained):
            raise ConfigError("no parameter is trained", where="model", expected="parameters that require gradients")
        groups = [{"params": params, "place": i, "lr": 0.0} for i, params in enumerate(trained) if params]
        super().__init__(groups, {})

    def bind(self, partitions: Sequence[tuple[Tensor, Sequence[Piece]]], names: Collection[str]) -> None:
        """Give the inner optimizer the pieces of this process's partitions in place of the parameters.

        Args:
            names: of all parameters that are trained.
        """
        self._names = frozenset(names)
        for group in self.inner.param_groups:
            group["params"] = []
        self.inner.state.clear()
        for flat, pieces in partitions:
            bound = [(piece, nn.Parameter(piece.tensor)) for piece in pieces]
            self._pieces[id(flat)] = bound
            for piece, parameter in bound:
                self.inner.param_groups[piece.group]["params"].append(parameter)

    @property
    def names(self) -> Collection[str]:
        """The parameters that are trained, on whatever process."""
        return self._names

    def pieces(self, *, fresh: bool = False) -> Iterator[tuple[Piece, dict[str, Any]]]:
        """The pieces that are trained here, each with its state.

        Args:
            fresh: make a state where there is none, to be filled.
        """
        for bound in self._pieces.values():
            for piece, parameter in bound:
                there = fresh or parameter in self.inner.state
                yield piece, self.inner.state[parameter] if there else {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step on the partitions in `param_groups`, whose gradients are already divided and clipped."""
        assert closure is None
        for group in self.param_groups:
            for flat in group["params"]:
                self._step(group["place"], flat)

    def _step(self, place: int, flat: Tensor) -> None:
        groups, gradient = self.inner.param_groups, flat.grad
        assert gradient is not None
        bound = self._pieces[id(flat)]
        for piece, parameter in bound:
            offset = parameter.storage_offset() - flat.storage_offset()
            parameter.grad = gradient[offset : offset + parameter.numel()] if piece.name in self.used else None
        self.inner.param_groups = [{**groups[place], "params": [parameter for _, parameter in bound]}]
        try:
            self.inner.step()
        finally:
            self.inner.param_groups = groups
        for _, parameter in bound:
            parameter.grad = None
