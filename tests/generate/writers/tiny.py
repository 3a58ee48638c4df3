"""Random little models of every family, and the slow twin: one row, no cache, no pads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor

from flagai.generate.writers.base import Prompt, Writer
from flagai.generate.writers.make import make_writer
from flagai.models.glm.commands import Commands
from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.modeling import GLMForConditionalGeneration

VOCAB, POSITIONS = 40, 32
COMMANDS = Commands(cls=30, eos=31, pad=31, sep=32, unk=33, sop=34, eop=35, mask=36, smask=37, gmask=38)
_SIZES = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
_WIDE = {"initializer_range": 0.5}
_LLAMA = {**_SIZES, **_WIDE, "num_attention_heads": 4, "max_position_embeddings": POSITIONS}
_BART = {
    **{"vocab_size": VOCAB, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "init_std": 0.5},
    **{"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
    **{"max_position_embeddings": POSITIONS},
}
_T5 = {"vocab_size": VOCAB, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
_MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": VOCAB, **_WIDE}),
    "opt": (
        "OPTForCausalLM",
        {
            **{"vocab_size": VOCAB, "hidden_size": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "ffn_dim": 32, "max_position_embeddings": POSITIONS, "init_std": 0.5},
        },
    ),
    "llama": ("LlamaForCausalLM", _LLAMA),
    "qwen2": ("Qwen2ForCausalLM", {**_LLAMA, "num_key_value_heads": 2}),
    "mistral": ("MistralForCausalLM", {**_LLAMA, "num_key_value_heads": 2, "sliding_window": 4}),
    "bloom": ("BloomForCausalLM", {"vocab_size": VOCAB, "hidden_size": 16, "n_layer": 2, "n_head": 2, **_WIDE}),
    "t5": ("T5ForConditionalGeneration", {**_T5, "initializer_factor": 2.0, "decoder_start_token_id": 0}),
    "mt5": (
        "MT5ForConditionalGeneration",
        {**_T5, "initializer_factor": 2.0, "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu"},
    ),
    "bart": ("BartForConditionalGeneration", _BART),
    "marian": ("MarianMTModel", {**_BART, "decoder_start_token_id": 1, "pad_token_id": 1}),
    "pegasus": ("PegasusForConditionalGeneration", _BART),
    "bert": ("BertForMaskedLM", {**_LLAMA, "num_attention_heads": 2}),
    "ernie": ("ErnieForMaskedLM", {**_LLAMA, "num_attention_heads": 2}),
    "roberta": (
        "RobertaForMaskedLM",
        {**_LLAMA, "max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1, "pad_token_id": 1},
    ),
}
DECODERS = ("gpt2", "opt", "llama", "qwen2", "mistral", "bloom")
ENCODER_DECODERS = ("t5", "mt5", "bart", "pegasus", "marian")
BIDIRECTIONAL = ("bert", "roberta", "ernie")
FAMILIES = (*DECODERS, *ENCODER_DECODERS, *BIDIRECTIONAL, "glm")


@cache
def build(name: str, attention: str = "sdpa") -> Any:
    """A random model in evaluation mode, the same one each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "glm":
            sizes = {"num_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "max_sequence_length": POSITIONS}
            model: Any = GLMForConditionalGeneration(GLMConfig(**sizes, vocab_size=VOCAB, initializer_range=0.5))
        else:
            kind, fields = _MADE[name]
            cls = getattr(transformers, kind)
            model = cls(cls.config_class(**({"n_positions": POSITIONS} if name == "gpt2" else {}), **fields))
        torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.5)
    if attention != "sdpa":
        model.set_attn_implementation(attention)
    return model.eval()


def writer_of(name: str, attention: str = "sdpa") -> Writer:
    """A new general writer for the model."""
    return make_writer(build(name, attention), commands=COMMANDS, fast=False)


def prompts_of(name: str) -> list[Prompt]:
    """Four prompts of different lengths; one has a part of its answer already."""
    if name == "glm":
        first, second, third = (30, 5, 36, 9, 31), (30, 36, 31), (30, 4, 37, 8, 2, 6, 11, 36, 31)
        return [
            Prompt(ids=first, blanks=(2,)),
            Prompt(ids=second, blanks=(1,)),
            Prompt(ids=third, blanks=(7,), answers=((2, (12, 13)),)),
            Prompt(ids=first, blanks=(2,), written=(3, 14)),
        ]
    texts = [(5, 9, 3), (7,), (4, 4, 8, 2, 6, 11)]
    return [*(Prompt(ids=text) for text in texts), Prompt(ids=(9, 9, 2, 6), written=(3, 14))]


def uncached(name: str, prompt: Prompt, fed: Sequence[int], attention: str = "sdpa") -> tuple[Tensor, Tensor]:
    """(scores [V], last hidden state [H]) after a prompt and tokens: the whole row goes through the model."""
    model, answer = build(name, attention), [*prompt.written, *fed]
    with torch.no_grad():
        if name == "glm":
            rows = [(place, tokens) for place, tokens in (*prompt.answers, (prompt.blanks[0], tuple(answer)))]
            read = [(t, p, b) for p, one in rows for b, t in enumerate((COMMANDS.sop, *one), start=1)]
            return _glm(model, prompt.ids, read)
        if name in BIDIRECTIONAL:
            return _unilm(model, prompt.ids, answer)
        if name in ENCODER_DECODERS:
            start = model.config.decoder_start_token_id
            inputs = {"input_ids": torch.tensor([prompt.ids]), "decoder_input_ids": torch.tensor([[start, *answer]])}
        else:
            inputs = {"input_ids": torch.tensor([[*prompt.ids, *answer]])}
        outputs = model(**inputs, use_cache=False, output_hidden_states=True)
        states = outputs.decoder_hidden_states if name in ENCODER_DECODERS else outputs.hidden_states
        return outputs.logits[0, -1], states[-1][0, -1]


def _unilm(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> tuple[Tensor, Tensor]:
    n, m = len(prompt), len(answer)
    hidden = torch.full((n + m, n + m), torch.finfo(torch.float32).min).triu(1)
    hidden[:, :n] = 0.0
    segments = torch.tensor([[0] * n + [1] * m])
    first = model.config.pad_token_id + 1 if model.config.model_type == "roberta" else 0
    outputs = model(
        input_ids=torch.tensor([[*prompt, *answer]]),
        attention_mask=hidden[None, None],
        token_type_ids=segments.clamp(max=model.config.type_vocab_size - 1),
        position_ids=torch.arange(n + m)[None] + first,
        output_hidden_states=True,
    )
    return outputs.logits[0, -1], outputs.hidden_states[-1][0, -1]


def _glm(model: Any, context: Sequence[int], read: Sequence[tuple[int, int, int]]) -> tuple[Tensor, Tensor]:
    n, m = len(context), len(read)
    mask = torch.ones(n + m, n + m).tril()
    mask[:, :n] = 1
    positions = [[*range(n), *(one[1] for one in read)], [*[0] * n, *(one[2] for one in read)]]
    ids = torch.tensor([[*context, *(one[0] for one in read)]])
    states = model.glm(ids, position_ids=torch.tensor([positions]), attention_mask=mask[None, None]).last_hidden_state
    return model.lm_head(states)[0, -1], states[0, -1]
