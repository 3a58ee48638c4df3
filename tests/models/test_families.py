"""Which family writes how, and logits of chosen tokens alone: equal to the model's own at these places."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tasks.writers import FAMILIES, settings
from torch import nn
from transformers import CONFIG_MAPPING

from flagai.errors import ModelError
from flagai.models.build import build_from_config
from flagai.models.families import end_ids_of, family_of, positions_of, start_of
from flagai.models.kept_logits import call_model
from flagai.models.loading import auto_class, quiet_config
from flagai.tasks.base import HeadSpec

WRITES = HeadSpec(body="generation", num_labels=0)


@pytest.mark.parametrize(
    ("kind", "family", "head"),
    [
        ("gpt2", "decoder", "GPT2LMHeadModel"),
        ("opt", "decoder", "OPTForCausalLM"),
        ("llama", "decoder", "LlamaForCausalLM"),
        ("qwen2", "decoder", "Qwen2ForCausalLM"),
        ("t5", "encoder-decoder", "T5ForConditionalGeneration"),
        ("mt5", "encoder-decoder", "MT5ForConditionalGeneration"),
        ("bart", "encoder-decoder", "BartForConditionalGeneration"),
        ("bert", "encoder", "BertForMaskedLM"),
        ("roberta", "encoder", "RobertaForMaskedLM"),
    ],
)
def test_the_family_of_a_configuration(kind: str, family: str, head: str) -> None:
    config = CONFIG_MAPPING[kind]()
    assert family_of(config) == family
    assert auto_class("generation", config, "here").__name__ == head


def test_families_that_do_not_write() -> None:
    config = CONFIG_MAPPING["vit"]()
    assert family_of(config) is None
    with pytest.raises(ModelError, match="no model that writes"):
        auto_class("generation", config, "here")
    assert family_of(CONFIG_MAPPING["distilbert"]()) is None  # no cache: it would learn, and could not write
    assert family_of(CONFIG_MAPPING["bert"](is_decoder=True)) == "decoder"


def test_positions_starts_and_ends() -> None:
    sizes = {"max_position_embeddings": 40}
    assert positions_of(CONFIG_MAPPING["bert"](**sizes)) == 40
    assert positions_of(CONFIG_MAPPING["roberta"](**sizes, pad_token_id=1)) == 38
    assert positions_of(CONFIG_MAPPING["gpt2"](n_positions=24)) == 24
    assert positions_of(CONFIG_MAPPING["t5"]()) is None
    assert positions_of(quiet_config({"model_type": "flagai_glm", "max_sequence_length": 30}, "")) == 30
    assert start_of(CONFIG_MAPPING["t5"](), 7) == 0  # its own pad
    assert start_of(CONFIG_MAPPING["bart"](decoder_start_token_id=5), 7) == 5

    class Tokens:
        eos_token_id: Any = None
        sep_token_id: Any = 3

    assert end_ids_of(Tokens()) == (3,)
    Tokens.eos_token_id = 2
    assert end_ids_of(Tokens()) == (2,)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_chosen_tokens_are_those_of_the_whole(family: str) -> None:
    model = build_from_config(settings(family), WRITES, vocab_size=40, pad_token_id=0)
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 40, (3, 9), generator=chance)
    keep = torch.rand(3, 9, generator=chance) < 0.4
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family == "encoder-decoder":
        inputs["decoder_input_ids"] = ids.flip(1)
    whole = model(**inputs).logits
    kept = call_model(model, inputs | {"logits_to_keep": keep}).logits
    torch.testing.assert_close(kept, whole[keep], rtol=1e-5, atol=1e-6)
    kept.square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model(**inputs).logits[keep].square().sum().backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-5)
    assert call_model(model, inputs).logits.shape == whole.shape  # the hook is gone
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_without_an_output_layer() -> None:
    with pytest.raises(ModelError, match="no output layer"):
        call_model(nn.Linear(2, 2), {"logits_to_keep": torch.ones(1, 2, dtype=torch.bool)})


def test_a_mask_for_every_query_takes_the_quick_attention_with_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate so small that nothing is dropped: the quick way must give what transformers' own gives."""
    from flagai.models import packing, packing_attention

    sizes = settings("encoder") | {"attention_probs_dropout_prob": 1e-9}
    model = build_from_config(sizes, WRITES, vocab_size=40, pad_token_id=0).train()
    ids = torch.randint(5, 40, (2, 7), generator=torch.Generator().manual_seed(0))
    seen = torch.ones(7, 7).tril().bool().repeat(2, 1, 1, 1)
    seen[0, :, :, :3] = True
    plain = model(ids, attention_mask=seen).logits
    plain.square().mean().backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    calls: list[int] = []
    quick = packing_attention.dropped_attention
    monkeypatch.setattr(packing_attention, "dropped_attention", lambda *a, **k: calls.append(1) or quick(*a, **k))
    assert packing.enable(model)
    logits = model(ids, attention_mask=seen).logits
    assert len(calls) == 2
    torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-5)
    logits.square().mean().backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, wanted[name], rtol=1e-3, atol=1e-5)
