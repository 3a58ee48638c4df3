"""Where sentences end: which tokens of a vocabulary close one, and which of a text do. Knows no blank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTENCE_ENDS: Final = frozenset(".?!;:。？！；…\n")
"""A token that contains one of these closes a sentence (the list of the original, in both widths)."""


def sentence_ends_of(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Ids of the tokens that contain a sentence end, ascending, int64. Special tokens are none.

    A token counts by its name in the vocabulary or by the text it stands for: byte-level vocabularies write a newline
    and every character outside ASCII in letters of their own. (The original sees names only, so that with the GPT-2
    vocabulary neither a newline nor a full-width mark ends a sentence there.)
    """
    special = set(tokenizer.all_special_ids)
    found = [
        number
        for token, number in tokenizer.get_vocab().items()
        if number not in special and _closes(token, tokenizer.convert_tokens_to_string([token]))
    ]
    return np.array(sorted(found), dtype=np.int64)


def closing(ids: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Which `ids` [n] are among the ascending ids `ends` → bool [n]."""
    if not len(ends):
        return np.zeros(len(ids), dtype=bool)
    # twice as fast as numpy.isin for a few hundred tokens and as many ends
    return ends[ends[:-1].searchsorted(ids)] == ids


def _closes(*texts: str) -> bool:
    return any(not SENTENCE_ENDS.isdisjoint(text) for text in texts)
