"""Matrix times rows, by whichever kernel of torch is fastest for so many rows. Knows no model and no layer.

Writing one token reads every matrix once, so its speed is the speed of reading. On CPUs `F.linear` is far from it, in
fp32 for one row (one core, half its bandwidth) as for a few (the product is blocked for many). What is used instead:

* one row, fp32: a batched product of the matrix cut in pieces, which all cores read; needs no copy.
* more rows, or bf16: the oneDNN linear that torch.compile uses, on a copy of the matrix in oneDNN's own order. The copy
  is made when a matrix was used often enough to pay for it, and costs the matrix's size once more; until then fp32 goes
  through the same kernel without one.

Elsewhere, and where torch has no such kernels, it is `F.linear`. Results differ by rounding only.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

USES_BEFORE_PACKING: Final = 8
"""products with a matrix before it is copied: making the copy takes as long as about so many of them save"""

LEAST_NUMBERS: Final = 2**16
"""of a matrix; what is smaller lies in a cache, and `F.linear` is as fast"""

_FEW_ROWS: Final = 256
_SAMPLES: Final = 8
_GELU: Final = {"gelu": "none", "gelu_tanh": "tanh"}
_FUSED: Final = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "relu": ("relu", ""), "silu": ("swish", "")}


def activate(x: Tensor, name: str) -> Tensor:
    """An activation by name: "gelu", "gelu_tanh", "relu", "silu"; "" is none."""
    if name in _GELU:
        return F.gelu(x, approximate=_GELU[name])
    if name == "relu":
        return F.relu(x)
    return F.silu(x) if name == "silu" else x


class Store:
    """The copies made for one model: kept as long as the model, made anew where its weights have changed."""

    def __init__(self) -> None:
        self._packed: dict[tuple[int, ...], tuple[Any, Tensor]] = {}
        self._refused: set[tuple[int, ...]] = set()
        self.nbytes = 0
        """what the copies take"""

    def get(self, key: tuple[int, ...]) -> Tensor | None:
        """The copy for these matrices, None where there is none."""
        found = self._packed.get(key)
        return None if found is None else found[1]

    def make(self, key: tuple[int, ...], weights: Sequence[Tensor], transposed: bool) -> Tensor | None:
        """A copy of the matrices, one below the other, in oneDNN's order; None where torch cannot make one."""
        if key in self._refused:
            return None
        rows = [weight.t() if transposed else weight for weight in weights]
        whole = rows[0].detach() if len(rows) == 1 else torch.cat(rows)
        try:
            packed = torch.ops.mkldnn._reorder_linear_weight(whole.contiguous(), None)
        except (RuntimeError, AttributeError, TypeError):
            self._refused.add(key)
            return None
        self._packed[key] = (_stamp(weights), packed)
        self.nbytes += sum(weight.nbytes for weight in weights)
        return packed

    def drop_changed(self, products: Sequence[Product]) -> None:
        """Forget copies of matrices that are no longer what they were: trained, loaded or replaced."""
        current = {product.key: product.weights for product in products}
        for key, (stamp, _) in list(self._packed.items()):
            if key in current and _stamp(current[key]) == stamp:
                continue
            del self._packed[key]
        self.nbytes = sum(sum(w.nbytes for w in current[key]) for key in self._packed)


_STORES: weakref.WeakKeyDictionary[Any, Store] = weakref.WeakKeyDictionary()


def store_of(model: Any) -> Store:
    """The copies of a model's matrices."""
    return _STORES.setdefault(model, Store())


def forget(model: Any) -> None:
    """Give back the memory of the copies; they are made again when they are needed."""
    _STORES.pop(model, None)


def _stamp(weights: Sequence[Tensor]) -> Any:
    """Equal for equal weights; training, loading and replacing change it.

    The version counts changes that autograd knows of; a few numbers tell of most others (`parameter.data` edited).
    """
    return tuple(
        (weight.data_ptr(), weight.shape, 0 if weight.is_inference() else weight._version, _sample(weight))
        for weight in weights
    )


def _sample(weight: Tensor) -> tuple[float, ...]:
    flat = weight.detach().reshape(-1)
    return tuple(flat[:: max(1, flat.numel() // _SAMPLES)].tolist())


class Product:
    """y = activation(x Wᵀ + b), for one matrix or several that read the same x.

    Args:
        weights: each [outputs, inputs], or [inputs, outputs] if `transposed` (GPT-2); of one dtype.
        biases: one for each or None.
        activation: see `activate`.
        store: where copies go; None makes none.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None] = (),
        *,
        transposed: bool = False,
        activation: str = "",
        store: Store | None = None,
    ) -> None:
        self.weights, self._transposed, self._activation, self._store = tuple(weights), transposed, activation, store
        self._biases = tuple(biases) or (None,) * len(self.weights)
        self.key = tuple(id(weight) for weight in self.weights)
        axis = 1 if transposed else 0
        self._widths = [weight.shape[axis] for weight in self.weights]
        self._uses = 0
        self._threads = torch.get_num_threads()
        self.refresh()

    def refresh(self) -> None:
        """Look at the matrices again: the model may have been trained, or moved to another dtype."""
        first = self.weights[0]
        straight = all(weight.is_contiguous() for weight in self.weights)
        large = min(weight.numel() for weight in self.weights) >= LEAST_NUMBERS
        cpu = first.device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        self._fp32 = first.dtype == torch.float32
        self._special = cpu and straight and large and (self._fp32 or first.dtype == torch.bfloat16)
        self._bias = self._whole_bias()

    @property
    def nbytes(self) -> int:
        """What one use reads."""
        return sum(weight.nbytes for weight in self.weights)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, inputs] → [rows, outputs], those of several matrices side by side."""
        packed = self._packed(x.shape[0])
        if packed is not None:
            how, algorithm = _FUSED.get(self._activation, ("none", ""))
            return torch.ops.mkldnn._linear_pointwise(x, packed, self._bias, how, [], algorithm)
        found = self._singly(x)
        return found[0] if len(found) == 1 else torch.cat(found, 1)

    def cut_in(self, parts: int) -> Product:
        """The same, whose outputs are several of equal width side by side."""
        self._widths = [sum(self._widths) // parts] * parts
        return self

    def parts(self, x: Tensor) -> Sequence[Tensor]:
        """The same as a call, one tensor for each matrix."""
        if len(self.weights) == len(self._widths) and self._packed(x.shape[0]) is None:
            return self._singly(x)
        return self(x).split(self._widths, 1)

    def _whole_bias(self) -> Tensor | None:
        """The biases in a row; a copy where there are several, so it is made anew by `refresh`."""
        if all(bias is None for bias in self._biases):
            return None
        if len(self._biases) == 1:
            return self._biases[0]
        filled = [
            self.weights[0].new_zeros(width) if bias is None else bias.detach()
            for bias, width in zip(self._biases, self._widths, strict=True)
        ]
        return torch.cat(filled)

    def _packed(self, rows: int) -> Tensor | None:
        """The copy, where one is of use: made when there were uses enough."""
        if self._store is None or not self._special or (rows == 1 and self._fp32):
            return None
        packed = self._store.get(self.key)
        if packed is None and rows <= _FEW_ROWS:
            self._uses += 1
            if self._uses > USES_BEFORE_PACKING:
                packed = self._store.make(self.key, self.weights, self._transposed)
        return packed

    def _singly(self, x: Tensor) -> list[Tensor]:
        """Each matrix by itself, where it lies."""
        found = [self._linear(x, weight, bias) for weight, bias in zip(self.weights, self._biases, strict=True)]
        return [activate(one, self._activation) for one in found] if self._activation else found

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        one_row = x.shape[0] == 1 and self._special and self._fp32
        if self._transposed:
            if one_row and self._threads > 1 and weight.shape[0] % self._threads == 0:
                return _inputs_cut(x, weight, bias, self._threads)
            return x @ weight if bias is None else torch.addmm(bias, x, weight)
        if one_row:
            return _outputs_cut(x, weight, bias, max(2, self._threads))
        if self._special and self._fp32:
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return F.linear(x, weight, bias)


def _outputs_cut(x: Tensor, weight: Tensor, bias: Tensor | None, pieces: int) -> Tensor:
    """[1, inputs] × [outputs, inputs] → [1, outputs], as a batch of pieces of the outputs; of odd ones two overlap."""
    outputs, inputs = weight.shape
    if outputs % pieces:
        pieces = 2
    size = -(-outputs // pieces)
    even = outputs % pieces == 0
    step = size if even else outputs - size
    batch = weight.as_strided((pieces, size, inputs), (step * inputs, inputs, 1), weight.storage_offset())
    column = x.t().expand(pieces, inputs, 1)
    if even and bias is not None:
        return torch.baddbmm(bias.view(pieces, size, 1), batch, column).view(1, outputs)
    y = torch.bmm(batch, column).view(pieces, size)
    if even:
        return y.view(1, outputs)
    whole = torch.cat([y[0], y[1, 2 * size - outputs :]])[None]
    return whole if bias is None else whole + bias


def _inputs_cut(x: Tensor, weight: Tensor, bias: Tensor | None, pieces: int) -> Tensor:
    """[1, inputs] × [inputs, outputs] → [1, outputs], as a sum over pieces of the inputs."""
    inputs, outputs = weight.shape
    cut = torch.bmm(x.reshape(pieces, 1, inputs // pieces), weight.view(pieces, inputs // pieces, outputs))
    whole = cut.sum(0)
    return whole if bias is None else whole + bias
