"""What cannot be meant is refused before anything is written, and the message says what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.generate.poet import make_poet
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, GPT2Model, T5Config, T5EncoderModel

from flagai import AutoLoader, Predictor
from flagai.errors import ConfigError, DataError, FlagaiError, ModelError, UnknownNameError
from flagai.generate.generate import generate

SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 40, "n_positions": 16}
IDS = torch.tensor([[5, 9, 3]])


@pytest.fixture(scope="module")
def gpt() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**SIZES, bos_token_id=None, eos_token_id=1)).eval()


@pytest.fixture(scope="module")
def poet(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    loader = AutoLoader("lm", make_poet(tmp_path_factory.mktemp("poet")))
    return Predictor(loader.get_model(), loader.get_tokenizer())


@pytest.mark.parametrize(
    ("ids", "options", "error", "message"),
    [
        (torch.empty(1, 0, dtype=torch.long), {}, DataError, "prompt is empty"),
        (torch.full((1, 17), 3), {}, DataError, r"17 tokens(.|\n)*at most 16"),
        (IDS, {"max_new_tokens": 15}, ConfigError, r"max_new_tokens is 15(.|\n)*at most 14(.|\n)*shorten the prompt"),
        (IDS, {"max_length": 9}, UnknownNameError, r"max_length(.|\n)*max_new_tokens"),
        (IDS, {"top_p": 1.5, "do_sample": True}, ConfigError, "top_p is 1.5"),
        (IDS, {"top_p": 0.0, "do_sample": True}, ConfigError, "top_p is 0.0"),
        (IDS, {"temperature": 0.7}, ConfigError, "temperature without do_sample has no effect"),
        (IDS, {"num_beams": 4, "num_beam_groups": 3}, ConfigError, "cannot be cut into num_beam_groups 3"),
        (IDS, {"penalty_alpha": 0.6}, ConfigError, r"top_k is 0(.|\n)*top_k=4"),
        (IDS, {"penalty_alpha": 0.6, "top_k": 4, "num_beams": 2}, ConfigError, "one way of searching"),
        (IDS, {"constraints": {"length": 3}}, ConfigError, "tokenizer"),
        (IDS, {"constraints": {"lenght": 3}}, UnknownNameError, r"lenght(.|\n)*length"),
        (IDS[0], {}, DataError, r"shape \[3\]"),
        (torch.tensor([[5, 40]]), {}, DataError, r"token id 40(.|\n)*from 0 to 39"),
        (torch.tensor([[-100, 5]]), {}, DataError, "token id -100"),
    ],
)
def test_a_call_of_generate(
    gpt: Any, ids: torch.Tensor, options: dict[str, Any], error: type[FlagaiError], message: str
) -> None:
    with pytest.raises(error, match=message):
        generate(gpt, ids, **options)


@pytest.mark.parametrize(
    "options", [{}, {"do_sample": True}, {"num_beams": 3}, {"penalty_alpha": 0.6, "top_k": 3}], ids=str
)
def test_scores_that_are_no_numbers(options: dict[str, Any]) -> None:
    """As an overflow in fp16 gives: an answer would be one token again and again."""
    broken = GPT2LMHeadModel(GPT2Config(**SIZES, bos_token_id=None, eos_token_id=1)).eval()
    with torch.no_grad():
        broken.transformer.ln_f.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match=r"no numbers(.|\n)*fp16"):
        generate(broken, IDS, max_new_tokens=3, **options)


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        ("", {}, DataError, "text is empty"),
        ("静" * 80, {}, DataError, r"tokens(.|\n)*at most 64"),
        ("静", {"constraints": {"must_contain": "月", "must_not_contain": "月"}}, ConfigError, "contradict"),
        ("静", {"constraints": {"must_contain": ["明月", "故乡"], "length": 1}}, ConfigError, "contradict"),
        ("静", {"constraints": {"one_of": ["一", "二"], "must_contain": "月"}}, ConfigError, "constraint"),
        ("静", {"constraints": {"matches": "(月"}}, ConfigError, "regular expression"),
        ("静", {"constraints": {"verse": "六言绝句"}}, UnknownNameError, "六言绝句"),
        ("静", {"top_n": 4}, UnknownNameError, "top_n"),
        ("静", {"stop": ""}, ConfigError, "stop"),
    ],
)
def test_a_call_of_the_predictor(
    poet: Predictor, text: str, options: dict[str, Any], error: type[FlagaiError], message: str
) -> None:
    with pytest.raises(error, match=message):
        poet.generate(text, **options)


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (GPT2Model(GPT2Config(**SIZES)), "AutoModelForCausalLM"),
        (BertModel(BertConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2)), "AutoModelForMaskedLM"),
        (T5EncoderModel(T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)), "AutoModelForSeq2SeqLM"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_model_without_the_head_that_writes(model: Any, wanted: str) -> None:
    with pytest.raises(ModelError, match=wanted):
        generate(model.eval(), IDS)
