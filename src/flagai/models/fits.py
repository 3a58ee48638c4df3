"""Whether a tokenizer and a model belong together, and a hash that says whether two tokenizers are the same.

It knows no file and no task.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from flagai.errors import ModelError

_PROBES: Final = (
    "The quick brown fox can't jump 12,345 fences; naïve café.",
    "6月15日，河南省文物考古研究所公布了“曹操墓”的发掘成果。",
    "混排 text：GPT-2 與ＢＥＲＴ、全角！ 😀👩‍👩‍👧 𠀀",
    "  leading  and\ttrailing \n",
)


def tokenizer_fits(tokenizer: Any, config: Any, *, where: str = "", needs_pad: bool = True) -> None:
    """Check that every id a tokenizer can give has a row in the model's embedding, and that both pad alike.

    Args:
        needs_pad: whether a tokenizer without a padding token (GPT-2) is an error; tasks that write need none.

    Errors: `ModelError`, before a wrong id reads beyond the embedding (on a GPU that is a crash far from its cause).
    """
    rows = getattr(config.get_text_config() if hasattr(config, "get_text_config") else config, "vocab_size", None)
    if rows is None:
        return
    _check_glm(tokenizer, rows, where)
    highest = max((*tokenizer.get_vocab().values(), len(tokenizer) - 1))
    fix = "use the tokenizer the model was trained with"
    special = sorted(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    if beyond := [f"{token!r} = {number}" for number, token in special if number >= rows]:
        raise ModelError(
            f"special tokens lie beyond the embedding: {', '.join(beyond)}",
            expected=f"ids below {rows}, the rows of the model's embedding",
            fix=fix,
            where=where,
        )
    if highest >= rows:
        raise ModelError(
            f"the tokenizer has ids up to {highest}, the model's embedding has {rows} rows",
            expected=f"ids below {rows}",
            fix=fix,
            where=where,
        )
    if needs_pad or tokenizer.pad_token_id is not None:
        _check_pad(tokenizer, config, where)


def _check_glm(tokenizer: Any, rows: int, where: str) -> None:
    """The released GLMs pad their embedding to 128 rows, so that the number of rows tells which vocabulary it was."""
    layout = getattr(tokenizer, "glm_layout", None)
    if layout is None:
        return
    from flagai.models.glm.commands import PUBLISHED_SIZES, padded_size

    published = [name for name, size in PUBLISHED_SIZES.items() if padded_size(size + 2) == rows]
    if published and rows != padded_size(tokenizer.num_tokens):
        raise ModelError(
            f"the tokenizer has {tokenizer.num_tokens} tokens ({layout}), the model's embedding {rows} rows",
            expected=f"the vocabulary of a released model with {rows} rows: {' or '.join(published)}",
            fix="use the tokenizer the model was trained with",
            where=where,
        )


def _check_pad(tokenizer: Any, config: Any, where: str) -> None:
    theirs = getattr(config, "pad_token_id", None)
    if tokenizer.pad_token_id is None:
        raise ModelError(
            "the tokenizer has no padding token",
            expected="a pad token",
            fix='set "pad_token" in tokenizer_config.json (for a decoder, its end-of-text token)',
            where=where,
        )
    if theirs is not None and theirs != tokenizer.pad_token_id:
        raise ModelError(
            f"the tokenizer pads with id {tokenizer.pad_token_id}, the model with {theirs}",
            expected="one padding id",
            fix='use the tokenizer the model was trained with, or correct "pad_token_id" in config.json',
            where=where,
        )


def fingerprint(tokenizer: Any) -> str:
    """A hash that changes when a tokenizer gives other ids: sha256 over the ids of probe sentences and the size."""
    # not verbose: a probe may be longer than a small model reads, which harms nothing here
    ids = [tokenizer(text, verbose=False)["input_ids"] for text in _PROBES]
    pairs = tokenizer(_PROBES[0], _PROBES[1], verbose=False)["input_ids"]
    text = json.dumps([len(tokenizer), ids, pairs], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
