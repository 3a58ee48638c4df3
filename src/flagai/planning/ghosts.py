"""Tensors that have a shape and an address and no contents: a training step runs on them, and its memory is counted.

It knows operations and storages: no model, no strategy and no device but the CPU, whose code paths it follows.

A ghost is an ordinary CPU tensor whose memory is never touched: the system gives a process pages only when they are.
So autograd, autocast and the choice of kernels work as they do in a real step, while nothing is computed: what an
operation gives is known from its inputs' shapes (torch's meta kernels). Whole numbers and masks are computed in
earnest, for models look at them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

_aten: Any = torch.ops.aten
_META: Final = torch.device("meta")
_REAL: Final = 1 << 22
"""a tensor of more numbers than these is a ghost from the start, whatever it would be filled with"""
_VIEWS: Final = frozenset({_aten._unsafe_view.default})
_EMPTY: Final = frozenset(
    {_aten.empty.memory_format, _aten.empty_strided.default, _aten.new_empty.default, _aten.empty_like.default}
)
_QUESTIONS: Final = frozenset({_aten._local_scalar_dense.default, _aten.equal.default})
_INDEXED: Final = frozenset(
    {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._unsafe_index.Tensor}
)


@dataclass(frozen=True, slots=True)
class _Shape:
    """A tensor that an operation makes."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> _Shape:
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def on(self, device: torch.device) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=device)


@dataclass(frozen=True, slots=True)
class _Argument:
    """An argument that an operation changes and gives back."""

    place: int


class Ghosts(TorchDispatchMode):
    """While it is entered, new floating-point tensors are ghosts, and the bytes of all that live are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.gradients = 0
        self._marks: list[tuple[int, int]] = []
        self._held: dict[int, Any] = {}
        self._ghosts: set[int] = set()
        self._known: dict[Any, tuple[list[Any], Any]] = {}

    def watch(self, parameters: Sequence[nn.Parameter]) -> None:
        """Count the gradients of these by themselves."""
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._arrived)

    def restart(self) -> int:
        """Forget the course so far; gives the bytes that live now."""
        self._marks = [(self.live, self.gradients)]
        return self.live

    def course(self) -> np.ndarray:
        """(bytes that live, bytes of gradients among them) after each change since `restart`, int64 [changes, 2]."""
        return np.asarray(self._marks, dtype=np.int64).reshape(-1, 2)

    def is_ghost(self, tensor: Tensor) -> bool:
        """Whether a tensor has no contents."""
        return tensor.untyped_storage()._cdata in self._ghosts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.is_view or func in _VIEWS:
            return func(*args, **kwargs)
        flat, tree = tree_flatten((args, kwargs))
        tensors = [value for value in flat if isinstance(value, Tensor)]
        if not any(map(self.is_ghost, tensors)):
            return self._in_earnest(func, args, kwargs, made=not tensors)
        if func in _QUESTIONS:  # about contents that are not there; no, for some loops go on until it is
            return False if tensors[0].dtype == torch.bool or func is not _aten._local_scalar_dense.default else 1
        if func is _aten.nonzero.default:  # as many as there can be
            return self._counted(torch.zeros(tensors[0].numel(), tensors[0].dim(), dtype=torch.int64))
        if func in _INDEXED:
            args = (args[0], self._by_number(args[1]), *args[2:])
            flat, tree = tree_flatten((args, kwargs))
        for tensor in _changed(func, args, kwargs):
            self._lose(tensor)
        return self._answer(func, flat, tree)

    def _in_earnest(self, func: Any, args: Any, kwargs: Any, *, made: bool) -> Any:
        """An operation on real tensors, or out of nothing."""
        if made and any(argument.name == "device" for argument in func._schema.arguments):
            there = func(*args, **{**kwargs, "device": _META, "pin_memory": False})
            if there.numel() > _REAL or (func in _EMPTY and there.is_floating_point()):
                return self._ghost(_Shape.of(there))
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            self._counted(tensor)
            if func in _EMPTY and tensor.is_floating_point():
                self._ghosts.add(tensor.untyped_storage()._cdata)
        return result

    def _answer(self, func: Any, flat: list[Any], tree: Any) -> Any:
        """What an operation on ghosts gives: new ghosts, or the arguments that it changed."""
        try:
            key = (func, tree, *(_Shape.of(value) if isinstance(value, Tensor) else _typed(value) for value in flat))
            known = self._known.get(key)
        except TypeError:  # an argument that cannot be a key
            key, known = None, None
        if known is None:
            known = _shapes(func, flat, tree)
            if key is not None:
                self._known[key] = known
        results, out = known
        given = [
            flat[r.place] if isinstance(r, _Argument) else self._ghost(r) if isinstance(r, _Shape) else r
            for r in results
        ]
        return tree_unflatten(given, out)

    def _by_number(self, indices: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Masks as the numbers of what they keep; a mask without contents keeps everything."""
        found: list[Tensor | None] = []
        for index in indices:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                found.append(index)
            elif self.is_ghost(index):
                found += [torch.zeros(index.numel(), dtype=torch.int64) for _ in range(index.dim())]
            else:
                found += index.nonzero(as_tuple=True)
        return found

    def _ghost(self, shape: _Shape) -> Tensor:
        tensor = self._counted(shape.on(torch.device("cpu")))
        self._ghosts.add(tensor.untyped_storage()._cdata)
        return tensor

    def _lose(self, tensor: Tensor) -> None:
        """A tensor into which a ghost was written has no contents any more."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._held:  # made elsewhere: not ours to count
            self._hold(storage, 0)
        self._ghosts.add(storage._cdata)

    def _counted(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._held:
            self._hold(storage, storage.nbytes())
        return tensor

    def _hold(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        self._held[key] = weakref.ref(storage, lambda _: self._gone(key, size))
        self._mark(size)

    def _gone(self, key: int, size: int) -> None:
        del self._held[key]
        self._ghosts.discard(key)
        self._mark(-size)

    def _mark(self, change: int) -> None:
        self.live += change
        self._marks.append((self.live, self.gradients))

    def _arrived(self, parameter: Any) -> None:
        if parameter.grad is not None and not hasattr(parameter, "flagai_counted"):
            parameter.flagai_counted = True
            self.gradients += parameter.grad.nbytes
            self._mark(0)


def _shapes(func: Any, flat: list[Any], tree: Any) -> tuple[list[Any], Any]:
    """What an operation gives, asked of torch's meta kernels."""
    there = [
        _Shape.of(value).on(_META) if isinstance(value, Tensor) else _META if isinstance(value, torch.device) else value
        for value in flat
    ]
    args, kwargs = tree_unflatten(there, tree)
    results, out = tree_flatten(func(*args, **kwargs))
    places = {id(value): i for i, value in enumerate(there) if isinstance(value, Tensor)}
    return [
        (_Argument(places[id(r)]) if id(r) in places else _Shape.of(r)) if isinstance(r, Tensor) else r for r in results
    ], out


def _typed(value: Any) -> Any:
    """Equal for equal arguments only: 1, 1.0 and True are three."""
    hash(value)
    return type(value), value


def _changed(func: Any, args: Sequence[Any], kwargs: Any) -> Iterator[Tensor]:
    """The tensors that an operation writes into."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _tensors(args[place] if place < len(args) else kwargs.get(argument.name))


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]
