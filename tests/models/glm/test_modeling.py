"""The model against the original's numbers, and every fast path against its slow twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.glm.conftest import GLM, lively
from torch import Tensor

from flagai.errors import DataError
from flagai.models import packing
from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.modeling import GLMForConditionalGeneration, GLMModel

CASES = ("A_scalar_sep", "B_vector_sep", "C_mask4d", "E_causal", "F_bidir", "G_attnscale8")
TRUTH = 5e-5
Load = Callable[..., GLMForConditionalGeneration]


def given(case: str) -> dict[str, Tensor]:
    inputs = np.load(GLM / "inputs.npz")
    return {name: torch.tensor(inputs[f"{case}/{name}"]) for name in ("input_ids", "position_ids", "attention_mask")}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("gelu", ["tanh", "erf"])
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_the_originals(reference: Load, case: str, gelu: str, attention: str) -> None:
    truth = np.load(GLM / {"tanh": "logits_thudm.npz", "erf": "logits_hf.npz"}[gelu])[case]
    scale = 8.0 if case.startswith("G") else 1.0
    model = reference(gelu=gelu, attn_implementation=attention, attention_scale=scale)
    with torch.no_grad():
        logits = model(**given(case)).logits
    assert np.abs(logits.numpy() - truth).max() < TRUTH


def test_the_two_gelus_are_two_functions(reference: Load) -> None:
    """Without this, the test above could pass with a switch that does nothing."""
    with torch.no_grad():
        tanh, erf = (reference(gelu=gelu)(**given(CASES[0])).logits for gelu in ("tanh", "erf"))
    assert 1e-3 < (tanh - erf).abs().max() < 1e-2


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("gelu", ["tanh", "erf"])
def test_cached_decoding_equals_the_originals(reference: Load, gelu: str, attention: str) -> None:
    inputs = np.load(GLM / "inputs.npz")
    truth = np.load(GLM / {"tanh": "logits_thudm.npz", "erf": "logits_hf.npz"}[gelu])
    model = reference(attn_implementation=attention, gelu=gelu)
    with torch.no_grad():
        outputs = model(**given("D_mems"), use_cache=True)
        assert np.abs(outputs.logits.numpy() - truth["D_mems/prefill"]).max() < TRUTH
        place = int(inputs["D_mems/step_pos"])
        for i in range(3):
            token = torch.tensor(inputs["D_mems/steps"][:, i : i + 1])
            step = model(
                token, position_ids=torch.tensor([[[place], [i + 1]]]), past_key_values=outputs.past_key_values
            )
            assert np.abs(step.logits.numpy() - truth[f"D_mems/step{i}"]).max() < TRUTH
        whole = given("D_mems")
        steps, n = torch.tensor(inputs["D_mems/steps"]), whole["input_ids"].shape[1]
        answer = torch.tensor([[[place] * 3, [1, 2, 3]]])
        uncached = model(
            torch.cat([whole["input_ids"], steps], 1),
            position_ids=torch.cat([whole["position_ids"], answer], -1),
            context_length=torch.tensor([n]),
        ).logits
        assert np.abs(uncached.numpy() - truth["D_mems/nocache"]).max() < TRUTH


def test_a_separator_is_a_context_length(reference: Load) -> None:
    model, call = reference(), given("B_vector_sep")
    lengths = call.pop("attention_mask")
    with torch.no_grad():
        as_mask = model(**call, attention_mask=lengths).logits
        as_length = model(**call, context_length=lengths).logits
        scalar = model(**given("A_scalar_sep")).logits
        call = given("A_scalar_sep")
        zero_dim = model(**{**call, "attention_mask": call["attention_mask"][0]}).logits
    assert torch.equal(as_mask, as_length)
    assert torch.equal(scalar, zero_dim)


def explicit_mask(filling: dict[str, Tensor]) -> Tensor:
    """Token by token, from the sentence in the paper."""
    rows, width = filling["input_ids"].shape
    mask = torch.zeros(rows, 1, width, width, dtype=torch.long)
    for row in range(rows):
        for i in range(width):
            for j in range(width):
                seen = j <= i or j < filling["context_length"][row]
                mask[row, 0, i, j] = int(i == j or (seen and filling["attention_mask"][row, j] == 1))
    return mask


def real(filling: dict[str, Tensor]) -> Tensor:
    return filling["attention_mask"].bool()


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
def test_structure_equals_the_explicit_mask(filling: dict[str, Tensor], attention: str) -> None:
    slow = lively(attn_implementation="eager")
    fast = lively(attn_implementation=attention)
    explicit = {**filling, "attention_mask": explicit_mask(filling), "context_length": None}
    with torch.no_grad():
        difference = fast(**filling).logits - slow(**explicit).logits
    assert difference[real(filling)].abs().max() < 2e-5


@pytest.mark.parametrize("lengths", [[12] * 5, [11] * 5, [0] * 5, [1] * 5, [5] * 5], ids=lambda v: str(v[0]))
def test_the_cases_without_a_mask_equal_the_explicit_mask(filling: dict[str, Tensor], lengths: list[int]) -> None:
    model = lively()
    filling = filling | {"attention_mask": torch.ones(5, 12), "context_length": torch.tensor(lengths)}
    explicit = {**filling, "attention_mask": explicit_mask(filling), "context_length": None}
    with torch.no_grad():
        assert (model(**filling).logits - model(**explicit).logits).abs().max() < 2e-5


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_equals_one_at_a_time(filling: dict[str, Tensor], side: str) -> None:
    model = lively()
    lengths = filling["attention_mask"].sum(1).tolist()
    batch = dict(filling)
    if side == "left":
        for name in ("input_ids", "attention_mask", "position_ids"):
            batch[name] = torch.stack([row.roll(12 - n, -1) for row, n in zip(filling[name], lengths, strict=True)])
        batch["context_length"] = filling["context_length"] + 12 - torch.tensor(lengths)
    with torch.no_grad():
        together = model(**batch).logits
        for row, n in enumerate(lengths):
            alone = model(
                filling["input_ids"][row : row + 1, :n],
                context_length=filling["context_length"][row : row + 1],
                position_ids=filling["position_ids"][row : row + 1, :, :n],
            ).logits[0]
            there = together[row, :n] if side == "right" else together[row, 12 - n :]
            assert (alone - there).abs().max() < 2e-5


def test_flex_takes_an_explicit_mask(filling: dict[str, Tensor]) -> None:
    torch.compiler.reset()  # a second shape makes torch's CPU code for dynamic shapes, which does not compile
    explicit = {**filling, "attention_mask": explicit_mask(filling), "context_length": None}
    with torch.no_grad():
        slow = lively(attn_implementation="eager")(**explicit).logits
        fast = lively(attn_implementation="flex_attention")(**explicit).logits
    assert (slow - fast)[real(filling)].abs().max() < 2e-5


def test_a_body_read_in_two_pieces_sees_all_that_is_there(filling: dict[str, Tensor]) -> None:
    body = lively(GLMModel)
    ids = filling["input_ids"][:1]
    with torch.no_grad():
        first = body(ids[:, :7], use_cache=True)
        second = body(ids[:, 7:], past_key_values=first.past_key_values).last_hidden_state
        again = body(ids[:, :7], use_cache=True)
        told = body(ids[:, 7:], past_key_values=again.past_key_values, context_length=torch.tensor([12]))
    assert torch.allclose(second, told.last_hidden_state, atol=1e-6)


def test_packing_with_one_context_length_for_all(filling: dict[str, Tensor]) -> None:
    padded, packed = lively(), lively()
    assert packing.enable(packed)
    call = filling | {"context_length": torch.tensor(3)}
    with torch.no_grad():
        assert (padded(**call).logits - packed(**call).logits)[real(filling)].abs().max() < 2e-5


def test_attending_to_pads_is_not_packed() -> None:
    model = lively(attend_to_pads=True)
    assert not packing.enable(model)
    assert "pads" in packing.why_not(model)


def test_pads_can_be_attended_to_as_in_the_original(filling: dict[str, Tensor]) -> None:
    without = {name: value for name, value in filling.items() if name != "attention_mask"}
    with torch.no_grad():
        assert torch.equal(lively(attend_to_pads=True)(**filling).logits, lively()(**without).logits)
        assert (lively()(**filling).logits - lively()(**without).logits)[2, :7].abs().max() < 2e-5  # no pad in context
        wide = filling | {"context_length": torch.full((5,), 12)}
        plain = lively()(**wide).logits - lively(attend_to_pads=True)(**wide).logits
    assert plain[2, :7].abs().max() > 1e-2


def test_a_row_that_sees_nothing_sees_the_mean_of_all() -> None:
    """As in the original: its scores are all the same number."""
    model = lively(num_layers=1, attn_implementation="eager")
    ids = torch.randint(1, 60, (1, 6))
    blind = torch.ones(1, 1, 6, 6, dtype=torch.long)
    blind[0, 0, 2] = 0
    attention = model.glm.transformer.layers[0].attention
    uniform = attention.query.weight.data.clone(), attention.query.bias.data.clone()
    with torch.no_grad():
        masked = model(ids, attention_mask=blind).logits[0, 2]
        attention.query.weight.zero_()
        attention.query.bias.zero_()
        everywhere_equal = model(ids, attention_mask=torch.ones_like(blind)).logits[0, 2]
        attention.query.weight.copy_(uniform[0])
        attention.query.bias.copy_(uniform[1])
        seeing = model(ids, attention_mask=torch.ones_like(blind)).logits[0, 2]
    assert (masked - everywhere_equal).abs().max() < 1e-5
    assert (masked - seeing).abs().max() > 1e-2


def test_packed_equals_padded_with_gradients(filling: dict[str, Tensor]) -> None:
    labels = filling["input_ids"].masked_fill(~real(filling), -100)
    padded, packed = lively(), lively()
    assert packing.enable(packed)
    losses = []
    for model in (padded, packed):
        outputs = model(**filling, labels=labels, logits_to_keep=labels != -100)
        outputs.loss.backward()
        losses.append((outputs.logits, outputs.loss))
    assert (losses[0][0] - losses[1][0]).abs().max() < 2e-5
    for (name, slow), (_, fast) in zip(padded.named_parameters(), packed.named_parameters(), strict=True):
        assert torch.allclose(slow.grad, fast.grad, atol=2e-6, rtol=1e-4), name


def test_a_bare_body_reads_both_ways_packed_or_not(filling: dict[str, Tensor]) -> None:
    body = lively(GLMModel)
    call = {name: filling[name] for name in ("input_ids", "attention_mask")}
    changed = call["input_ids"].clone()
    changed[0, 11] = 5 if changed[0, 11] != 5 else 6
    with torch.no_grad():
        padded = body(**call).last_hidden_state
        assert (body(**{**call, "input_ids": changed}).last_hidden_state - padded)[0, 0].abs().max() > 1e-3
        assert packing.enable(body)
        packed = body(**call).last_hidden_state
    assert (padded - packed)[real(filling)].abs().max() < 2e-5


def test_logits_to_keep(filling: dict[str, Tensor]) -> None:
    model, wanted = lively(), torch.rand(5, 12) < 0.3
    with torch.no_grad():
        whole = model(**filling).logits
        assert torch.allclose(model(**filling, logits_to_keep=wanted).logits, whole[wanted], atol=1e-5)
        assert torch.allclose(model(**filling, logits_to_keep=2).logits, whole[:, -2:], atol=1e-5)
        index = torch.tensor([1, 4])
        assert torch.allclose(model(**filling, logits_to_keep=index).logits, whole[:, index], atol=1e-5)


def test_gradients_against_finite_differences(filling: dict[str, Tensor]) -> None:
    model = lively(num_layers=1, hidden_size=8, num_attention_heads=2, vocab_size=60).double()
    labels = filling["input_ids"].masked_fill(~real(filling), -100)

    def loss() -> Tensor:
        return model(**filling, labels=labels).loss

    loss().backward()
    stream = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, name
        flat, step = parameter.data.view(-1), 1e-6
        for i in torch.randint(len(flat), (3,), generator=stream).tolist():
            old = flat[i].item()
            with torch.no_grad():
                flat[i] = old + step
                up = loss().item()
                flat[i] = old - step
                down = loss().item()
                flat[i] = old
            assert gradient.view(-1)[i].item() == pytest.approx((up - down) / (2 * step), abs=1e-7, rel=1e-4), name


def test_recomputation_gives_the_same_gradients(filling: dict[str, Tensor]) -> None:
    """With dropout: the recomputed layers must draw what the first pass drew. Each layer runs twice."""
    plain, frugal = lively().train(), lively().train()
    frugal.gradient_checkpointing_enable()
    runs = []
    for model in (plain, frugal):
        counts = [0]
        layer = model.glm.transformer.layers[0].mlp
        layer.register_forward_pre_hook(lambda *_, counts=counts: counts.__setitem__(0, counts[0] + 1))
        torch.manual_seed(3)
        model(**filling, labels=filling["input_ids"]).loss.backward()
        runs.append(counts[0])
    assert runs == [1, 2]
    for one, other in zip(plain.parameters(), frugal.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("rate", ["embedding_dropout_prob", "attention_dropout_prob", "output_dropout_prob"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_each_dropout_is_there_in_training_only(filling: dict[str, Tensor], rate: str, attention: str) -> None:
    none = {"embedding_dropout_prob": 0.0, "attention_dropout_prob": 0.0, "output_dropout_prob": 0.0}
    model = lively(attn_implementation=attention, **(none | {rate: 0.5}))
    still = lively(attn_implementation=attention, **none).train()
    with torch.no_grad():
        assert torch.equal(model(**filling).logits, model(**filling).logits)
        model.train()
        first, second = model(**filling).logits, model(**filling).logits
        assert (first - second)[real(filling)].abs().max() > 1e-2
        assert torch.equal(still(**filling).logits, still(**filling).logits)


def test_the_attention_scale_keeps_half_precision_finite(reference: Load) -> None:
    """What the switch is for: scores beyond the range of fp16, where the plain product overflows."""
    finite = []
    for scale in (1.0, 8.0):
        model = reference(attn_implementation="eager", attention_scale=scale)
        for layer in model.glm.transformer.layers:
            layer.attention.query.weight.data *= 150
            layer.attention.key.weight.data *= 150
        with torch.no_grad():
            logits = model.half()(**given("F_bidir")).logits
        finite.append(bool(torch.isfinite(logits).all()))
    assert finite == [False, True]


def test_bf16_is_close_to_fp32(reference: Load) -> None:
    """The bound is what we state: |logit| reaches 15, so 0.5 is three per cent of it; the mean is far below."""
    model, call = reference(), given("B_vector_sep")
    with torch.no_grad():
        exact = model(**call).logits
        rough = model.to(torch.bfloat16)(**call).logits.float()
    assert 1e-3 < (exact - rough).abs().max() < 0.5
    assert (exact - rough).abs().mean() < 0.05


def test_starting_weights() -> None:
    torch.manual_seed(0)
    model = GLMForConditionalGeneration(GLMConfig(num_layers=8, hidden_size=128, num_attention_heads=2, vocab_size=500))
    layer = model.glm.transformer.layers[3]
    assert layer.attention.query.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert layer.attention.dense.weight.std().item() == pytest.approx(0.005, rel=0.1)
    assert layer.mlp.dense_4h_to_h.weight.std().item() == pytest.approx(0.005, rel=0.1)
    assert layer.mlp.dense_h_to_4h.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.lm_head.weight is model.glm.word_embeddings.weight
    assert layer.attention.dense.bias.abs().max() == 0


SIZES = {
    "base": ({"num_layers": 12, "hidden_size": 768, "num_attention_heads": 12}, 109_338_624),
    "large": ({"num_layers": 24, "hidden_size": 1024, "num_attention_heads": 16}, 334_688_256),
    "515m": ({"num_layers": 30, "hidden_size": 1152, "num_attention_heads": 18}, 514_632_960),
    "10b": (
        {
            "num_layers": 48,
            "hidden_size": 4096,
            "num_attention_heads": 64,
            "max_sequence_length": 1024,
            "vocab_size": 50304,
        },
        9_880_682_496,
    ),
}


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_on_the_meta_device(size: str) -> None:
    settings, count = SIZES[size]
    with torch.device("meta"):
        model = GLMForConditionalGeneration(GLMConfig(**settings))
    model.tie_weights()
    assert sum(parameter.numel() for parameter in model.parameters()) == count


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "two separators": ({"attention_mask": torch.tensor([3]), "context_length": torch.tensor([3])}, "one of them"),
    "separator beyond": ({"attention_mask": torch.tensor([13])}, "inside the text"),
    "separator negative": ({"context_length": torch.tensor([-1])}, "inside the text"),
    "separators for others": ({"attention_mask": torch.tensor([3, 4])}, "one for each of 1 rows"),
    "separator not whole": ({"attention_mask": torch.tensor([3.5])}, "whole numbers"),
    "mask of another batch": ({"attention_mask": torch.ones(2, 12)}, "attention_mask has the shape"),
    "mask too wide": ({"attention_mask": torch.ones(1, 14), "context_length": torch.tensor([4])}, "14 columns"),
    "mask too short": ({"attention_mask": torch.ones(1, 8)}, "8 columns"),
    "mask of nothing but 0.0": ({"attention_mask": torch.zeros(1, 1, 12, 12)}, "all or nothing"),
    "explicit mask of other rows": ({"attention_mask": torch.ones(1, 1, 5, 12)}, "5 rows"),
    "explicit mask too narrow": ({"attention_mask": torch.ones(1, 1, 12, 9)}, "rows of 9"),
    "explicit mask of another batch": ({"attention_mask": torch.ones(3, 1, 12, 12)}, "attention_mask has the shape"),
    "positions of another length": ({"position_ids": torch.zeros(1, 2, 5, dtype=torch.long)}, "position_ids"),
    "position beyond the table": ({"position_ids": torch.full((1, 2, 12), 49)}, "0 to 48"),
    "position negative": ({"position_ids": torch.full((1, 2, 12), -1)}, "0 to 48"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    call, words = BAD[name]
    with pytest.raises(DataError, match=words):
        lively()(torch.ones(1, 12, dtype=torch.long), **call)


def test_a_text_beyond_the_table_is_named() -> None:
    with pytest.raises(DataError, match="the model reads 48 tokens"):
        lively()(torch.ones(1, 50, dtype=torch.long))


def test_no_input() -> None:
    with pytest.raises(DataError, match="exactly one"):
        lively(GLMModel)()
