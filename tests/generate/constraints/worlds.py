"""Little vocabularies of each kind and random little models over them, for constraints."""

from __future__ import annotations

import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from flagai.generate.constraints.check import check
from flagai.generate.constraints.parse import parse
from flagai.generate.constraints.spec import Length
from flagai.generate.constraints.vocabulary import Vocabulary
from flagai.generate.generate import generate

ASSETS = Path(__file__).parents[3] / "src/flagai/assets"
POET = ASSETS / "glm_tiny_poetry_ch"
_TEXT = """The answer is yes, or no: maybe tomorrow. An apple a day, a banana at night; 2026-11-23.
{"name": "Ada", "age": 36, "tags": ["cat"]} 明月几时有？把酒问青天。不知天上宫阙，今夕是何年。
She said: "the other one", and the cat sat on a mat in winter."""
_SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 256, "initializer_range": 0.5}


@cache
def characters(number: int = 300) -> tuple[str, ...]:
    """The most frequent characters of the bundled poet, with the marks of verse."""
    vocabulary = json.loads((POET / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    by_rank = sorted(vocabulary, key=vocabulary.__getitem__)
    return tuple(itertools.islice((one for one in by_rank if len(one) == 1 and one > "\u2e80"), number))


@cache
def tokenizer(kind: str) -> Any:
    """`bytes`: byte-level BPE; `spaces`: SentencePiece's spaces; `words`: WordPiece; `han`: single characters."""
    made = {"bytes": _bytes, "spaces": _spaces, "words": _words, "han": _han}[kind]()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


_SPECIAL = ["</s>", "<pad>", "<unk>"]


def _bytes() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE(unk_token=None))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=_SPECIAL, show_progress=False
    )
    made.train_from_iterator([_TEXT] * 3, trainer)
    return made


def _spaces() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.train_from_iterator(
        [_TEXT] * 3, trainers.BpeTrainer(vocab_size=300, special_tokens=_SPECIAL, show_progress=False)
    )
    return made


def _words() -> tokenizers.Tokenizer:
    pieces = "the an apple banana night day yes no may ##be tom ##orrow cat s ##at on mat , . ? - 月 ##月 山"
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789")
    vocabulary = dict.fromkeys([*_SPECIAL, *pieces.split(), *letters, *(f"##{one}" for one in letters)])
    made = tokenizers.Tokenizer(models.WordPiece({one: i for i, one in enumerate(vocabulary)}, unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=False)
    return made


def _han() -> tokenizers.Tokenizer:
    vocabulary = dict.fromkeys([*_SPECIAL, *characters(), *"，。？！；"])
    made = tokenizers.Tokenizer(models.WordPiece({one: i for i, one in enumerate(vocabulary)}, unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=False)
    return made


@cache
def model(kind: str, family: str = "gpt2") -> Any:
    """Random weights over a vocabulary of that kind, a few rows more than it has."""
    size = len(tokenizer(kind)) + 3
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if family == "gpt2":
            config: Any = transformers.GPT2Config(vocab_size=size, eos_token_id=0, bos_token_id=0, **_SIZES)
            return transformers.GPT2LMHeadModel(config).eval()
        config = transformers.T5Config(
            **{"vocab_size": size, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
            **{"eos_token_id": 0, "pad_token_id": 1, "decoder_start_token_id": 1, "initializer_factor": 3.0},
        )
        return transformers.T5ForConditionalGeneration(config).eval()


def write(kind: str, constraints: Any, *, family: str = "gpt2", prompts: Any = ((5, 6, 7),), **options: Any) -> Any:
    """The answers to each prompt."""
    ids = torch.tensor(prompts)
    return generate(
        model(kind, family), ids, tokenizer=tokenizer(kind), constraints=parse(constraints), **options
    ).answers


def faults(kind: str, tokens: Any, constraints: Any) -> list[str]:
    """What an independent look at the decoded text finds wrong."""
    text = tokenizer(kind).decode(list(tokens), skip_special_tokens=True)
    if kind in ("words", "han"):
        text = Vocabulary.of(tokenizer(kind)).text(tokens)  # without the spaces between Chinese characters
    found = []
    for spec in parse(constraints):
        if isinstance(spec, Length) and spec.unit == "tokens":
            good = spec.least <= len(tokens) <= (spec.most or len(tokens))
            found += [] if good else [f"{len(tokens)} tokens"]
        else:
            found += [f"{text!r}: {one}" for one in check(text, spec)]
    return found
