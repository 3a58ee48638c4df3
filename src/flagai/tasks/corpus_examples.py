"""Between tokenizer and token corpus: texts → ids, a vocabulary's fingerprint, samples → examples. Knows no task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from flagai.data.corpus_samples import Samples, SampleSource
from flagai.data.example import Example, Examples

_PROBES: Final = (
    "The quick brown fox can't jump 12,345 fences; naïve café.",
    "6月15日，河南省文物考古研究所公布了“曹操墓”的发掘成果。",
    "混排 text：GPT-2 與ＢＥＲＴ、全角！ 😀 𠀀 [MASK]",
    "  leading  and\ttrailing \n",
)


class TextIds:
    """Texts → token ids without special tokens; what looks like one in a text is text.

    Args:
        tokenizer: a Hugging Face fast tokenizer; it is copied, and the copy can be sent to other processes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.__setstate__(tokenizer.backend_tokenizer.to_str())

    def __getstate__(self) -> str:
        return self._json

    def __setstate__(self, state: str) -> None:
        # Pickling a tokenizer of the Rust library forgets that special tokens are text here.
        from tokenizers import Tokenizer

        self._json = state
        self._backend = Tokenizer.from_str(state)
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.encode_special_tokens = True

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, in order."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a corpus keeps of the tokenizer that made it."""

    fingerprint: str
    """sha256 over all tokens with their ids, and over what the tokenizer makes of some probes"""
    size: int
    """one more than the largest id"""

    @classmethod
    def of(cls, tokenizer: Any, encode: TextIds) -> Vocabulary:
        """That of a tokenizer and its `TextIds`."""
        tokens = sorted(tokenizer.get_vocab().items())
        told = json.dumps([tokens, encode(_PROBES)], separators=(",", ":"))
        digest = hashlib.sha256(told.encode()).hexdigest()
        return cls(digest, max(*(number for _, number in tokens), len(tokenizer) - 1) + 1)


class CorpusExamples(Examples):
    """The samples of an epoch as examples, made when they are asked for; `target` says which tokens are learned."""

    def __init__(self, source: SampleSource, epoch: int = 0) -> None:
        self.source = source
        self._samples: Samples = source.epoch(epoch)

    @property
    def lengths(self) -> np.ndarray:
        return self._samples.lengths

    def at(self, epoch: int) -> CorpusExamples:
        return CorpusExamples(self.source, epoch)

    def __len__(self) -> int:
        return len(self._samples)

    def _make(self, index: int) -> Example:
        sample = self._samples[index]
        return Example(input_ids=sample.ids, record=index, target=sample.predicted)
