"""Every way of multiplying gives the product: sizes that divide and sizes that do not, few rows and many."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flagai.generate.lean import products
from flagai.generate.lean.products import Product, Store, activate

BOUND = 2e-5


def plain(x: Tensor, weights: list[Tensor], biases: list[Tensor | None], activation: str) -> Tensor:
    """The slow twin."""
    return torch.cat(
        [activate(F.linear(x, w, b), activation) for w, b in zip(weights, biases, strict=True)],
        1,
    )


@torch.inference_mode()
@pytest.mark.parametrize("activation", ["", "gelu", "gelu_tanh", "relu", "silu"])
@pytest.mark.parametrize("outputs", [(6,), (7,), (9, 4, 4)])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_are_plain_products(
    activation: str, outputs: tuple[int, ...], threads: int, transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "LEAST_NUMBERS", 0)
    monkeypatch.setattr(products, "USES_BEFORE_PACKING", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    weights = [torch.randn(n, 10) for n in outputs]
    biases = [torch.randn(n) if n != 4 else None for n in outputs]
    given = [one.t().contiguous() for one in weights] if transposed else weights
    product = Product(given, biases, transposed=transposed, activation=activation, store=Store())
    for rows in (1, 3, 3, 3, 300):  # the second time with few rows goes through a copy
        x = torch.randn(rows, 10)
        expected = plain(x, weights, biases, activation)
        torch.testing.assert_close(product(x), expected, atol=BOUND, rtol=BOUND)
        parts = product.parts(x)
        assert [part.shape[1] for part in parts] == list(outputs)
        torch.testing.assert_close(torch.cat([*parts], 1), expected, atol=BOUND, rtol=BOUND)


@torch.inference_mode()
def test_a_copy_is_used_and_only_of_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LEAST_NUMBERS", 0)
    monkeypatch.setattr(products, "USES_BEFORE_PACKING", 0)
    weight, store = torch.randn(6, 10), Store()
    product, x = Product([weight], store=store), torch.randn(2, 10)
    product(x)
    assert store.nbytes == weight.nbytes
    weight.zero_()
    assert bool(product(x).any()), "the copy is of the numbers as they were, else this test shows nothing"
    store.drop_changed([product])
    assert store.nbytes == 0 and not bool(product(x).any())


@torch.inference_mode()
def test_small_matrices_are_never_copied() -> None:
    store = Store()
    product = Product([torch.randn(8, 8)], store=store)
    for _ in range(20):
        product(torch.randn(2, 8))
    assert store.nbytes == 0


def test_an_unknown_activation_is_none() -> None:
    x = torch.randn(3)
    assert activate(x, "") is x
