"""The same tokens as Hugging Face's `generate`, for every family: greedy and beams, prompts of different lengths."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from scipy import stats
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.generation import logits_process

from flagai.generate.generate import generate, write
from flagai.generate.options import GenerationOptions
from flagai.generate.requests import Answer
from flagai.generate.writers.base import Prompt
from flagai.generate.writers.make import make_writer

V, PAD, START, MOST = 60, 0, 1, 12
PROMPTS = [[7, 3, 9], [5], [11, 12, 13, 14, 15, 16], [51, 52, 30, 4]]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKENS: dict[str, Any] = {
    "vocab_size": V,
    "bos_token_id": START,
    "pad_token_id": PAD,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}
OPT: dict[str, Any] = {
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
}
T5: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": PAD,
}
BART: dict[str, Any] = {
    "d_model": 32,
    "max_position_embeddings": 40,
    "decoder_start_token_id": START,
    "forced_eos_token_id": None,
    **{
        f"{half}_{name}": size
        for half in ("encoder", "decoder")
        for name, size in (("layers", 2), ("ffn_dim", 64), ("attention_heads", 4))
    },
}


def _llama(config: Any, model: Any, heads: int) -> Any:
    return model(config(**SIZES, **TOKENS, num_key_value_heads=heads, initializer_range=0.25))


FAMILIES: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**TOKENS, n_layer=2, n_head=4, n_embd=32, initializer_range=0.3)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**TOKENS, **OPT, init_std=0.3)),
    "llama": lambda: _llama(LlamaConfig, LlamaForCausalLM, 4),
    "qwen2": lambda: _llama(Qwen2Config, Qwen2ForCausalLM, 2),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**TOKENS, **T5, initializer_factor=3.0)),
    "bart": lambda: BartForConditionalGeneration(BartConfig(**TOKENS, **BART, init_std=0.3)),
}
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beam 2": {"num_beams": 2, "length_penalty": 1.0},
    "beam 4": {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "num_return_sequences": 3},
    "beam 4 short": {"num_beams": 4, "length_penalty": -1.0, "early_stopping": "never", "num_return_sequences": 4},
    "greedy without repeats": {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2},
    "beam 3 without repeats": {"num_beams": 3, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
    "beam 3 to the end": {"num_beams": 3, "length_penalty": 1.5, "early_stopping": "never", "num_return_sequences": 2},
}


@functools.cache
def model_of(family: str) -> Any:
    torch.manual_seed(2)
    model = FAMILIES[family]().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Otherwise the source alone decides, and answers repeat one token.
            if "encoder_attn.out_proj" in name or "EncDecAttention.o" in name:
                parameter *= 0.2
    return model


@functools.cache
def ends_of(family: str) -> tuple[int, ...]:
    """Two tokens that come in the middle of answers, so that answers end at different lengths."""
    answers = [theirs(family, ids, (), {})[0] for ids in PROMPTS]
    middle = [min(sorted(set(answer)), key=lambda token: abs(answer.index(token) - 4)) for answer in answers]
    return tuple(sorted({middle[0], middle[-1]} - {PAD, START}))


def theirs(family: str, ids: list[int], ends: tuple[int, ...], way: dict[str, Any]) -> list[list[int]]:
    """Hugging Face's answers to one prompt, prompt and pads left out."""
    model = model_of(family)
    outputs = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=MOST,
        do_sample=False,
        eos_token_id=list(ends) or None,
        pad_token_id=V + 1,
        **way,
    )
    front = 1 if model.config.is_encoder_decoder else len(ids)
    return [[token for token in one[front:] if token != V + 1] for one in outputs.tolist()]


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, PROMPTS))
    ids, mask = torch.full((len(PROMPTS), longest), PAD), torch.zeros(len(PROMPTS), longest, dtype=torch.long)
    for row, prompt in enumerate(PROMPTS):
        place = slice(longest - len(prompt), None) if side == "left" else slice(len(prompt))
        ids[row, place], mask[row, place] = torch.tensor(prompt), 1
    return ids, mask


def with_ends(answers: Sequence[Answer]) -> list[list[int]]:
    return [[*one.tokens, *([] if one.end is None else [one.end])] for one in answers]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_tokens(family: str) -> None:
    """Through the writer that is taken for the model, and through the one over Hugging Face's own forward."""
    model, ends, lengths = model_of(family), ends_of(family), set()
    prompts = [Prompt(ids=tuple(ids)) for ids in PROMPTS]
    for name, way in WAYS.items():
        expected = [theirs(family, ids, ends, way) for ids in PROMPTS]
        lengths |= {len(one) for answers in expected for one in answers}
        found = generate(model, *padded("left"), max_new_tokens=MOST, eos_token_id=ends, **way)
        assert [with_ends(some) for some in found.answers] == expected, name
        options = GenerationOptions(max_new_tokens=MOST, eos_token_id=ends, **way)
        fillings = write(make_writer(model, fast=False), prompts, options)
        assert [with_ends([answer for (answer,) in some]) for some in fillings] == expected, name
    assert len(lengths) > 3  # they end sooner and later


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_pads_on_either_side(family: str) -> None:
    options: dict[str, Any] = {"max_new_tokens": MOST, "num_beams": 2, "eos_token_id": ends_of(family)}
    left, right = (generate(model_of(family), *padded(side), **options) for side in ("left", "right"))
    assert left.answers == right.answers


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_the_sequences_are_hugging_faces(family: str) -> None:
    """Prompts of the same length need no pads: the whole tensor is the same."""
    prompts = torch.tensor([[7, 3, 9], [5, 8, 2], [11, 12, 13]])
    options: dict[str, Any] = {"max_new_tokens": MOST, "num_beams": 3, "num_return_sequences": 2}
    settings: dict[str, Any] = {"eos_token_id": list(ends_of(family)), "pad_token_id": V - 1}
    model = model_of(family)
    expected = model.generate(prompts, attention_mask=torch.ones_like(prompts), do_sample=False, **options, **settings)
    assert torch.equal(generate(model, prompts, **options, **settings).sequences, expected)


def test_draws_have_hugging_faces_distribution() -> None:
    """Pairs of tokens, as often as the product of what Hugging Face's processors leave of the model's scores."""
    prompt, count = [7, 3, 9], 4000
    settings: dict[str, Any] = {"temperature": 1.7, "top_k": 6, "top_p": 0.9}
    found = generate(
        model_of("llama"),
        torch.tensor([prompt]),
        do_sample=True,
        max_new_tokens=2,
        num_return_sequences=count,
        eos_token_id=(),
        seed=11,
        **settings,
    )
    drawn = Counter(answer.tokens for answer in found.answers[0])
    chain: Any = logits_process.LogitsProcessorList(
        [
            logits_process.TemperatureLogitsWarper(1.7),
            logits_process.TopKLogitsWarper(6),
            logits_process.TopPLogitsWarper(0.9),
        ]
    )

    def allowed(ids: list[int]) -> dict[int, float]:
        tokens = torch.tensor([ids])
        with torch.no_grad():
            scores = model_of("llama")(tokens).logits[:, -1]
        shares = chain(tokens, scores)[0].double().softmax(0)
        return {token: float(shares[token]) for token in shares.nonzero()[:, 0].tolist()}

    expected = {(a, b): p * q * count for a, p in allowed(prompt).items() for b, q in allowed([*prompt, a]).items()}
    assert set(drawn) <= set(expected)
    often = [pair for pair in expected if expected[pair] >= 5]
    rest = count - sum(expected[pair] for pair in often)
    observed = [drawn[pair] for pair in often] + [count - sum(drawn[pair] for pair in often)]
    assert len(often) > 10 and stats.chisquare(observed, [*(expected[pair] for pair in often), rest]).pvalue > 0.001
