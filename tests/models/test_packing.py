"""Packed equals padded, for every family the table names, and whatever cannot be packed takes the padded path."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask

import flagai.models.glm.registration  # noqa: F401 - the Auto classes know our GLM
from flagai.models import packing, packing_attention
from flagai.models.packing_plan import make_plan

_VOCAB, _PAD, _HIDDEN, _HEADS = 60, 1, 16, 4
_SMALL: dict[str, Any] = {"vocab_size": _VOCAB, "pad_token_id": _PAD, "num_labels": 3, "max_position_embeddings": 80}
_BERT = {"hidden_size": _HIDDEN, "num_hidden_layers": 2, "num_attention_heads": _HEADS, "intermediate_size": 24}
_SIZES: dict[str, dict[str, Any]] = {
    "albert": {**_BERT, "embedding_size": 8, "num_hidden_layers": 3},
    "camembert": _BERT,
    "bert": _BERT,
    "distilbert": {"dim": _HIDDEN, "n_layers": 2, "n_heads": _HEADS, "hidden_dim": 24},
    "electra": {**_BERT, "embedding_size": 8},
    "ernie": {**_BERT, "use_task_id": True},
    "flagai_glm": {"num_layers": 2, "hidden_size": _HIDDEN, "num_attention_heads": _HEADS},
    "gpt2": {"n_embd": _HIDDEN, "n_layer": 2, "n_head": _HEADS, "n_positions": 80},
    # the window (3 to either side) is narrower than the rows
    "modernbert": {**_BERT, "num_hidden_layers": 4, "local_attention": 6, "global_attn_every_n_layers": 2},
    "roberta": _BERT,
    "xlm-roberta": _BERT,
}
_FAMILIES = sorted(_SIZES)
_ENCODERS = [family for family in _FAMILIES if family != "flagai_glm"]  # a GLM has neither of these heads
_LENGTHS = (9, 3, 14, 3, 1, 7, 8, 14)
_HEADS_OF = {"sequence": "AutoModelForSequenceClassification", "token": "AutoModelForTokenClassification"}


def _model(family: str, kind: str = "AutoModel", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A tiny random model without dropout, whose weights are large enough for every difference to show."""
    sizes = {k: v for k, v in _SMALL.items() if not (family == "gpt2" and k == "max_position_embeddings")}
    if family in ("modernbert", "gpt2"):
        sizes |= {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    config = AutoConfig.for_model(family, **(sizes | _SIZES.get(family, _BERT) | changes))
    torch.manual_seed(seed)
    model = getattr(transformers, kind).from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout") and isinstance(module.attention_dropout, float):
            module.attention_dropout = 0.0
    if family == "flagai_glm":
        config.attention_dropout_prob = 0.0
    return model


def _batch(lengths: tuple[int, ...] = _LENGTHS, left: bool = False, width: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    width = max(width, *lengths)
    ids = torch.randint(3, _VOCAB, (len(lengths), width), generator=generator)
    places = torch.arange(width).expand(len(lengths), -1)
    sizes = torch.tensor(lengths)[:, None]
    mask = (places >= width - sizes) if left else (places < sizes)
    return {"input_ids": ids.masked_fill(~mask, _PAD), "attention_mask": mask.long()}


def _widths(model: nn.Module) -> list[tuple[int, ...]]:
    """Records the shape [rows, length] that each layer's attention sees."""
    seen: list[tuple[int, ...]] = []
    for module in model.modules():
        if type(module).__name__.endswith(
            ("SelfAttention", "AlbertAttention", "GPT2Attention", "ModernBertAttention", "GLMAttention")
        ):
            module.register_forward_pre_hook(
                lambda _, args, kwargs: seen.append(tuple((args[0] if args else kwargs["hidden_states"]).shape[:2])),
                with_kwargs=True,
            )
    return seen


def _run(
    model: nn.Module, batch: dict[str, torch.Tensor], **extra: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The output at real tokens (or the logits of rows), and every gradient of a loss over it."""
    model.zero_grad()
    output = model(**batch, **extra)[0]
    if output.dim() == 3:
        output = output[batch["attention_mask"].bool()]
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return output.detach(), grads


def _assert_same(got: Any, want: Any, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(got[0], want[0], rtol=1e-4, atol=tolerance)
    assert got[1].keys() == want[1].keys() and want[1]
    for name in want[1]:
        scale = want[1][name].abs().max().item() + 1.0
        torch.testing.assert_close(got[1][name] / scale, want[1][name] / scale, rtol=0, atol=tolerance, msg=name)


def _compare(model: nn.Module, batch: dict[str, torch.Tensor], *, packs: bool = True, **extra: Any) -> None:
    """Padded by the library's own SDPA, then packed: the same numbers, and the layers saw the packed row."""
    want = _run(model, batch, **extra)
    seen = _widths(model)
    with packing.packed(model) as on:
        assert on
        got = _run(model, batch, **extra)
    tokens = int(batch["attention_mask"].sum())
    assert seen and all((shape == (1, tokens)) is packs for shape in seen), (seen, tokens)
    _assert_same(got, want)


def test_the_table_and_these_tests_name_the_same_families() -> None:
    assert set(packing._FAMILIES) == set(_FAMILIES)


@pytest.mark.parametrize("family", _FAMILIES)
@pytest.mark.parametrize("kind", ["AutoModel", *_HEADS_OF.values()])
def test_packed_equals_padded(family: str, kind: str) -> None:
    _compare(_model(family, kind), _batch())


@pytest.mark.parametrize("family", _FAMILIES)
def test_exact_path_equals_padded(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing_attention, "_wants_buckets", lambda *_: False)
    _compare(_model(family), _batch())


def test_double_precision_leaves_no_difference() -> None:
    for family in _FAMILIES:
        model = _model(family, _HEADS_OF["token"]).double()
        want, got = _run(model, _batch()), None
        with packing.packed(model):
            got = _run(model, _batch())
        _assert_same(got, want, tolerance=1e-12)


@pytest.mark.parametrize("family", _ENCODERS)
def test_masked_language_models(family: str) -> None:
    kind = "AutoModelForCausalLM" if family == "gpt2" else "AutoModelForMaskedLM"
    _compare(_model(family, kind), _batch())


@pytest.mark.parametrize("family", _ENCODERS)
def test_question_answering_logits_at_real_tokens(family: str) -> None:
    model, batch = _model(family, "AutoModelForQuestionAnswering", num_labels=2).eval(), _batch()
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        want = model(**batch)
        packing.enable(model)
        got = model(**batch)
    for name in ("start_logits", "end_logits"):
        torch.testing.assert_close(got[name][real], want[name][real], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", ["albert", "bert", "distilbert", "electra", "modernbert", "roberta"])
def test_multiple_choice(family: str) -> None:
    model, flat = _model(family, "AutoModelForMultipleChoice").eval(), _batch()
    batch = {name: value.view(4, 2, -1) for name, value in flat.items()}
    with torch.no_grad():
        want = model(**batch).logits
        packing.enable(model)
        torch.testing.assert_close(model(**batch).logits, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "modernbert"])
@pytest.mark.parametrize("lengths", [(5,), (1,), (6, 6, 6), (1, 1)], ids=str)
def test_single_rows_and_equal_lengths(family: str, lengths: tuple[int, ...]) -> None:
    _compare(_model(family, _HEADS_OF["token"]), _batch(lengths))
    _compare(_model(family, _HEADS_OF["token"]), _batch(lengths, width=11))


@pytest.mark.parametrize("family", _FAMILIES)
def test_what_is_not_padded_on_the_right_takes_the_padded_path(family: str) -> None:
    holes = _batch()
    holes["attention_mask"][0, 2] = 0
    for batch in (_batch(left=True), holes):
        _compare(_model(family), batch, packs=False)


def test_an_empty_row_takes_the_padded_path() -> None:
    assert make_plan(torch.tensor([[1, 1], [0, 0]])) is None
    _compare(_model("bert"), _batch((3, 0)), packs=False)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "albert", "ernie"])
def test_token_types_and_given_positions(family: str) -> None:
    batch = _batch()
    batch["token_type_ids"] = (torch.arange(14).expand(8, -1) > 3).long()
    _compare(_model(family, type_vocab_size=2), batch)
    _compare(_model(family, type_vocab_size=2), batch, position_ids=torch.arange(14).flip(0)[None] + 2)
    _compare(_model(family, type_vocab_size=2), batch, position_ids=torch.arange(14 * 8).view(8, 14) % 70)


def test_roberta_counts_positions_of_real_tokens_that_look_like_pads() -> None:
    batch = _batch()
    batch["input_ids"][2, 4] = _PAD
    _compare(_model("roberta"), batch)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "modernbert"])
def test_input_embeddings(family: str) -> None:
    batch = {"attention_mask": _batch()["attention_mask"]}
    _compare(_model(family), batch, inputs_embeds=torch.randn(8, 14, _HIDDEN))


def test_positional_arguments() -> None:
    model, batch = _model("bert"), _batch()
    want = model(batch["input_ids"], batch["attention_mask"])[0]
    seen = _widths(model)
    with packing.packed(model):
        got = model(batch["input_ids"], batch["attention_mask"])[0]
    assert seen[-1] == (1, sum(_LENGTHS))
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(got[real], want[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", _FAMILIES)
def test_places_of_pads_are_zero_and_their_tokens_do_not_matter(family: str) -> None:
    model, batch = _model(family).eval(), _batch()
    other = {**batch, "input_ids": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 5)}
    packing.enable(model)
    with torch.inference_mode():
        one, two = model(**batch)[0], model(**other)[0]
    assert torch.equal(one, two)
    assert one[batch["attention_mask"] == 0].abs().max() == 0


@pytest.mark.parametrize("family", _FAMILIES)
def test_recorded_hidden_states(family: str) -> None:
    model, batch = _model(family).eval(), _batch()
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        want = model(**batch, output_hidden_states=True).hidden_states
        packing.enable(model)
        got = model(**batch, output_hidden_states=True).hidden_states
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a[real], b[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert", "distilbert"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(family: str, reentrant: bool) -> None:
    model = _model(family, _HEADS_OF["sequence"]).train()
    want = _run(model, _batch())
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    packing.enable(model)
    _assert_same(_run(model, _batch()), want)


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2"])
def test_lora(family: str) -> None:
    peft = pytest.importorskip("peft")
    targets = {"bert": ["query", "value"], "modernbert": ["Wqkv"], "gpt2": ["c_attn"]}[family]
    config = peft.LoraConfig(r=2, target_modules=targets, task_type="SEQ_CLS", init_lora_weights=False)
    model = peft.get_peft_model(_model(family, _HEADS_OF["sequence"]), config)
    _compare(model, _batch())
    packing.enable(model)
    packing.disable(model.get_base_model())
    assert not packing.is_enabled(model)


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2"])
def test_bfloat16_autocast_is_no_further_from_float32_than_the_padded_path(family: str) -> None:
    model, batch = _model(family, _HEADS_OF["token"]), _batch()
    exact, grads = _run(model, batch)

    def error() -> tuple[float, float]:
        with torch.autocast("cpu", torch.bfloat16):
            output, found = _run(model, batch)
        slope = sum((found[n].float() - g).square().sum().item() for n, g in grads.items())
        return (output.float() - exact).square().mean().item(), slope

    padded = error()
    packing.enable(model)
    packed = error()
    assert packed[0] < 1.5 * padded[0] and packed[1] < 1.5 * padded[1]
    assert packed[0] > 0


def test_half_precision_weights() -> None:
    model, batch = _model("bert").bfloat16().eval(), _batch()
    with torch.inference_mode():
        want = model(**batch)[0]
        packing.enable(model)
        got = model(**batch)[0]
    real = batch["attention_mask"].bool()
    assert got.dtype == torch.bfloat16
    assert (got[real].float() - want[real].float()).abs().max() < 0.15


@pytest.mark.parametrize("bucketed", [True, False])
def test_dropout_is_applied_to_weights_and_scaled(bucketed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing_attention, "_LONGEST_DROPPED", 64 if bucketed else 0)
    plan = make_plan(torch.tensor([[1] * 40 + [0] * 3, [1] * 43]))
    assert plan is not None
    q = torch.randn(1, 2, plan.tokens, 8, dtype=torch.float64, requires_grad=True)
    module = nn.Identity()
    call = {"attention_mask": None, "is_causal": False, "flagai_packed": plan}
    exact = packing_attention.packed_attention(module, q, q, q, **call)[0]
    torch.manual_seed(0)
    draws = [packing_attention.packed_attention(module, q, q, q, dropout=0.3, **call)[0] for _ in range(400)]
    assert (torch.stack(draws).mean(0) - exact).abs().max() < 0.25
    assert torch.stack(draws).std(0).mean() > 0.05

    def seeded(t: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return packing_attention.packed_attention(module, t, t.sin(), t.cos(), dropout=0.3, **call)[0].square().sum()

    seeded(q).backward()
    step = torch.randn_like(q)
    with torch.no_grad():
        slope = (seeded(q + 1e-5 * step) - seeded(q - 1e-5 * step)) / 2e-5
    torch.testing.assert_close((q.grad * step).sum(), slope, rtol=1e-5, atol=1e-5)


def test_training_steps_with_dropout_follow_the_seed() -> None:
    def trained() -> torch.Tensor:
        model = _model("bert", _HEADS_OF["sequence"])
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.2
        packing.enable(model.train())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        torch.manual_seed(1)
        for _ in range(3):
            model(**_batch(), labels=torch.arange(8) % 3).loss.backward()
            optimizer.step()
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(trained(), trained())


def test_on_and_off_leave_no_trace(tmp_path: Any) -> None:
    model = _model("bert", _HEADS_OF["sequence"]).eval()
    keys, attention = list(model.state_dict()), model.config._attn_implementation
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    for _ in range(2):
        assert packing.enable(model)
    assert packing.is_enabled(model) and list(model.state_dict()) == keys
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == 1
    model.save_pretrained(tmp_path)
    assert packing.NAME not in (tmp_path / "config.json").read_text()
    for _ in range(2):
        packing.disable(model)
    assert not packing.is_enabled(model) and model.config._attn_implementation == attention
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert not hasattr(model.bert, packing._STATE)


def test_copies_and_pickles_stay_packed_and_can_be_freed() -> None:
    model, batch = _model("bert").eval(), _batch()
    packing.enable(model)
    want = model(**batch)[0]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        seen = _widths(other)
        assert torch.equal(other(**batch)[0], want) and seen[-1] == (1, sum(_LENGTHS))
        packing.disable(other)
        other(**batch)
        assert seen[-1] == (8, 14) and packing.is_enabled(model)


def test_a_module_around_a_model_and_two_models() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = _model("bert"), _model("gpt2")

        def forward(self, **batch: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.left(**batch)[0] + self.right(**batch)[0],)

    _compare(Pair(), _batch())


def test_models_that_share_a_configuration() -> None:
    one = _model("bert")
    two = type(one)(one.config)
    attention = one.config._attn_implementation
    packing.enable(one)
    packing.enable(two)
    packing.disable(one)
    seen = _widths(two)
    assert two(**_batch())[0].shape == (8, 14, _HIDDEN) and seen[-1] == (8, 14)  # its attention was taken away
    packing.disable(two)
    assert one.config._attn_implementation == two.config._attn_implementation == attention
    _compare(two.eval(), _batch())


def test_threads_do_not_mix_batches() -> None:
    model = _model("bert").eval()
    packing.enable(model)
    batches = [_batch(tuple(1 + (i * k) % 13 for i in range(1, 7))) for k in range(1, 9)]
    wrong: list[int] = []
    with torch.no_grad():
        want = [model(**batch)[0] for batch in batches]

    def work(number: int) -> None:
        with torch.no_grad():
            for _ in range(5):
                if not torch.equal(model(**batches[number])[0], want[number]):
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_wanted_weights_tuples_and_caches_take_the_padded_path() -> None:
    model, batch = _model("bert").eval(), _batch()
    packing.enable(model)
    seen = _widths(model)
    model(**batch, output_attentions=True)
    assert model(**batch, return_dict=False)[0].shape == (8, 14, _HIDDEN)
    assert set(seen) == {(8, 14)}


def test_generation_is_unchanged() -> None:
    model = _model("gpt2", "AutoModelForCausalLM").eval()
    batch = _batch((5, 3, 5), left=True)
    want = model.generate(**batch, max_new_tokens=6, do_sample=False)
    packing.enable(model)
    assert torch.equal(model.generate(**batch, max_new_tokens=6, do_sample=False), want)
    assert model(**batch, use_cache=True).past_key_values is not None


def test_families_without_sdpa_say_so_and_stay_padded() -> None:
    model, batch = _model("deberta-v2", max_position_embeddings=80).eval(), _batch()
    want = model(**batch)[0]
    assert not packing.supports(model) and "no SDPA" in packing.why_not(model)
    with packing.packed(model) as on:
        assert not on and torch.equal(model(**batch)[0], want)


def test_reasons() -> None:
    assert packing.why_not(_model("bert")) == "" and packing.supports(_model("bert"))
    assert "contains no Hugging Face model" in packing.why_not(nn.Linear(2, 2))
    assert "has not been proved for 't5'" in packing.why_not(
        transformers.T5Model(transformers.T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    )
    assert "chunk_size_feed_forward" in packing.why_not(_model("bert", chunk_size_feed_forward=2))


def test_contract_both_functions_are_registered() -> None:
    """Without a mask function transformers makes no mask, and a padded batch attends to its pads in silence."""
    assert AttentionInterface._global_mapping[packing.NAME] is packing_attention.packed_attention
    config = _model("bert").config
    mask, embedded = _batch()["attention_mask"], torch.zeros(8, 14, _HIDDEN)
    config._attn_implementation = packing.NAME
    assert packing.NAME in AttentionMaskInterface._global_mapping
    made = create_bidirectional_mask(config=config, inputs_embeds=embedded, attention_mask=mask)
    assert made is not None and torch.equal(made[:, 0, 0], mask.bool())
    marker = torch.empty(1, 1, 1, 0, dtype=torch.bool)
    assert create_bidirectional_mask(config=config, inputs_embeds=embedded, attention_mask=marker) is marker


def test_contract_pads_matter_where_the_mask_function_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap that the registration above avoids: this test fails when transformers closes it."""
    model, batch = _model("bert").eval(), _batch(left=True)
    real = batch["attention_mask"].bool()
    want = model(**batch)[0]
    packing.enable(model)
    torch.testing.assert_close(model(**batch)[0][real], want[real])
    monkeypatch.delitem(AttentionMaskInterface._global_mapping, packing.NAME)
    assert (model(**batch)[0][real] - want[real]).abs().max() > 1e-3


def test_contract_a_lost_plan_is_loud() -> None:
    q = torch.randn(1, 2, 5, 4)
    with pytest.raises(RuntimeError):
        packing_attention.packed_attention(nn.Identity(), q, q, q, torch.empty(1, 1, 1, 0, dtype=torch.bool))
