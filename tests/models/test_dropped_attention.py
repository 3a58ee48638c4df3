"""The attention with dropout for CPUs is attention with dropout: its twin, its gradients, its rate, its seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flagai.models import dropped_attention as module
from flagai.models.dropout import keep_mask
from flagai.models.dropped_attention import dropped_attention, has_no_kernel

_ROWS, _HEADS, _QUERIES, _KEYS, _DIM = 3, 4, 7, 7, 6


def _inputs(dtype: torch.dtype = torch.float32, queries: int = _QUERIES, keys: int = _KEYS) -> list[Tensor]:
    """q, k, v as a model makes them: heads are strided views of [rows, tokens, heads · dim]."""
    generator = torch.Generator().manual_seed(5)
    shapes = [(_ROWS, tokens, _HEADS, _DIM) for tokens in (queries, keys, keys)]
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [tensor.transpose(1, 2).requires_grad_() for tensor in drawn]


def _mask(rows: int = _ROWS) -> Tensor:
    """A prefix seen by all, and behind it left to right: [rows, 1, queries, keys]."""
    places = torch.arange(_KEYS)
    ends = torch.tensor([0, 3, 7])[:rows, None, None, None]
    return (places <= places[:, None]) | (places < ends)


def _kept(shape: tuple[int, ...], dropout: float, seed: int) -> tuple[Tensor, float]:
    """What each score's draw says, piece after piece as the function draws."""
    torch.manual_seed(seed)
    whole = torch.empty(shape, dtype=torch.bool)
    factor = 1.0
    for _, part in module._pieces(whole):
        kept, factor = keep_mask(part.shape, dropout)
        part.copy_(kept)
    return whole, factor


def _slow(q: Tensor, k: Tensor, v: Tensor, *, seen: Tensor | None, dropout: float, seed: int, scale: float) -> Tensor:
    scores = q @ k.mT * scale
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    weights = torch.softmax(scores, -1)
    kept, factor = _kept(tuple(weights.shape), dropout, seed)
    return (weights * kept * factor) @ v


_CASES: dict[str, tuple[dict[str, Any], Tensor | None]] = {
    "none": ({}, None),
    "causal": ({"causal": True}, torch.ones(_QUERIES, _KEYS).tril().bool()),
    "mask": ({"mask": _mask()}, _mask()),
    "one mask": ({"mask": _mask(2)[1:]}, _mask(2)[1:]),
}


@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("piece", [1, 2 * 49, 8 * 49, 1 << 18], ids=["one head", "two heads", "two rows", "all"])
def test_values_and_gradients_are_those_of_the_slow_twin(
    case: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PIECE", piece)
    options, seen = _CASES[case]
    slope = torch.randn(_ROWS, _HEADS, _QUERIES, _DIM)
    want_in, got_in = _inputs(), _inputs()
    want = _slow(*want_in, seen=seen, dropout=0.3, seed=2, scale=0.4)
    torch.manual_seed(2)
    got = dropped_attention(*got_in, dropout=0.3, scale=0.4, **options)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    pairs = zip(torch.autograd.grad(got, got_in, slope), torch.autograd.grad(want, want_in, slope), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=2e-6)


def test_fewer_queries_than_keys_and_another_width_of_values() -> None:
    q, k, v = _inputs(queries=2)
    v = torch.cat([v, v], -1)
    torch.manual_seed(1)
    got = dropped_attention(q, k, v, dropout=0.5)
    torch.testing.assert_close(got, _slow(q, k, v, seen=None, dropout=0.5, seed=1, scale=_DIM**-0.5))


def test_gradients_by_finite_differences() -> None:
    def seeded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        torch.manual_seed(4)
        return dropped_attention(q, k, v, dropout=0.4, mask=_mask(2)[1:])

    small = [tensor.detach()[:1, :2].clone().requires_grad_() for tensor in _inputs(torch.float64)]
    assert torch.autograd.gradcheck(seeded, small)


def test_the_mean_is_that_without_dropout_and_the_rate_is_exact() -> None:
    q, k, _ = _inputs()
    exact = F.scaled_dot_product_attention(*_inputs(), attn_mask=_mask())
    torch.manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([dropped_attention(*_inputs(), dropout=0.25, mask=_mask()) for _ in range(600)])
        # equal scores and an identity for values show the weights themselves
        eye = torch.eye(_KEYS).expand(_ROWS, _HEADS, -1, -1)
        uniform = torch.stack([dropped_attention(q * 0, k, eye, dropout=0.25) for _ in range(300)])
    assert (draws.mean(0) - exact).abs().max() < 6 * draws.std(0).max() / 600**0.5
    levels = uniform.unique()
    torch.testing.assert_close(levels, torch.tensor([0.0, 1 / 0.75 / _KEYS]))
    count = uniform.numel()
    assert abs((uniform == 0).sum().item() - 0.25 * count) < 5 * (count * 0.25 * 0.75) ** 0.5


def test_a_query_that_sees_nothing_gets_zeros_as_from_sdpa() -> None:
    mask = _mask()
    mask[0, 0, 2] = False
    q, k, v = _inputs()
    torch.manual_seed(3)
    got = dropped_attention(q, k, v, dropout=0.3, mask=mask)
    got.square().sum().backward()
    assert F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0, :, 2].abs().max() == 0
    assert got[0, :, 2].abs().max() == 0 and got[0, :, 3].abs().max() > 0
    for tensor in (q, k, v):
        assert tensor.grad is not None and tensor.grad.isfinite().all()
    assert q.grad is not None and q.grad[0, :, 2].abs().max() == 0
    want_in = _inputs()
    want = _slow(*want_in, seen=mask | ~mask.any(-1, keepdim=True), dropout=0.3, seed=3, scale=_DIM**-0.5)
    torch.testing.assert_close(got[1:], want[1:])


def test_a_seed_repeats_and_the_stream_goes_on() -> None:
    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([dropped_attention(*_inputs(), dropout=0.5, causal=True) for _ in range(2)])

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
    first, second = run(1).chunk(2)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    dropped_attention(*_inputs(), dropout=0.5, causal=True)
    torch.set_rng_state(torch.get_rng_state())  # what a checkpoint keeps
    assert torch.equal(dropped_attention(*_inputs(), dropout=0.5, causal=True), second)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"mask": _mask()}], ids=["none", "causal", "mask"])
def test_without_dropout_it_is_sdpa(options: dict[str, Any]) -> None:
    named: Any = {"attn_mask": options.get("mask"), "is_causal": options.get("causal", False)}
    q, k, v = _inputs()
    got = dropped_attention(q, k, v, dropout=0.0, **options)
    assert torch.equal(got, F.scaled_dot_product_attention(q, k, v, **named))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    inputs = _inputs(dtype)
    wide = [tensor.detach().float().requires_grad_() for tensor in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        got = dropped_attention(*inputs, dropout=0.3, mask=_mask())
    torch.manual_seed(1)
    want = dropped_attention(*wide, dropout=0.3, mask=_mask())
    assert got.dtype == dtype and torch.equal(got, want.to(dtype))
    slope = torch.randn(got.shape).to(dtype)
    grads = torch.autograd.grad(want, wide, slope.float())
    for ours, theirs in zip(torch.autograd.grad(got, inputs, slope), grads, strict=True):
        assert ours.dtype == dtype and torch.equal(ours, theirs.to(dtype))


def test_the_ends_of_the_range_and_other_devices_are_left_to_torch() -> None:
    q = torch.ones(1, 1, 2, 2)
    assert has_no_kernel(q, 0.1)
    assert not has_no_kernel(q, 0.0) and not has_no_kernel(q, 1.0) and not has_no_kernel(q.to("meta"), 0.1)
    assert dropped_attention(q, q, q, dropout=1.0).abs().max() == 0


def test_a_second_derivative_is_refused() -> None:
    q, k, v = _inputs()
    (first,) = torch.autograd.grad(dropped_attention(q, k, v, dropout=0.3).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("context", [None, 3, 9], ids=["left to right", "prefix", "both ways"])
def test_a_glm_takes_it_in_training_only(context: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from flagai.models.glm.configuration import GLMConfig
    from flagai.models.glm.modeling import GLMForConditionalGeneration

    options: Any = {"embedding_dropout_prob": 0.0, "output_dropout_prob": 0.0, "attention_dropout_prob": 0.3}
    config = GLMConfig(
        num_layers=2, vocab_size=30, hidden_size=16, num_attention_heads=2, max_sequence_length=16, **options
    )
    model = GLMForConditionalGeneration(config)
    ids = torch.arange(18).view(2, 9)
    lengths = None if context is None else torch.tensor([context, context])
    calls: list[Any] = []
    real = module._DroppedAttention.apply
    monkeypatch.setattr(module._DroppedAttention, "apply", lambda *given: calls.append(given) or real(*given))

    def logits(seed: int = 0) -> Tensor:
        torch.manual_seed(seed)
        return model(ids, context_length=lengths).logits

    exact = model.eval() and logits()
    assert not calls
    model.train()
    assert torch.equal(logits(), logits()) and len(calls) == 4
    assert not torch.allclose(logits(), exact, atol=1e-6)
    # nothing dropped but the detour taken: the same numbers
    monkeypatch.setattr(module, "keep_mask", lambda shape, _: (torch.ones(shape, dtype=torch.bool), 1.0))
    torch.testing.assert_close(logits(), exact, rtol=1e-5, atol=1e-6)
    config._attn_implementation = "eager"
    count = len(calls)
    logits()
    assert len(calls) == count
