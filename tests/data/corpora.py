"""Corpora of letters for the tests: how they are written and framed."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flagai.data.corpus import Corpus
from flagai.data.corpus_build import build_corpus
from flagai.data.corpus_samples import Framing

CLS, EOS, END = 1, 2, 3
"""ids of the tests: a full stop is the only sentence end, letters follow"""
LETTERS = {".": END, **{letter: at for at, letter in enumerate("abcdefghijklmnopqrstuvwxyz", start=10)}}


def encode(texts: Sequence[str]) -> list[list[int]]:
    return [[LETTERS[char] for char in text if char in LETTERS] for text in texts]


def write(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def build(path: Path | list[Path], folder: Path, **options) -> Corpus:
    files = path if isinstance(path, list) else [path]
    return build_corpus(files, folder, encode, **{"vocabulary_size": 40, "tokenizer": "letters", **options})


def corpus_of(texts: Sequence[str], folder: Path) -> Corpus:
    return build(write(folder.with_suffix(".jsonl"), [{"text": text} for text in texts]), folder)


ROWS = [{"prompt": "ask", "text": "it is so."}, {"text": "no prompt. two."}, {"prompt": "", "text": "x"}]


def texts_of(count: int, longest: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    letters = [*"abcdefgh", "."]
    return ["".join(chance.choices(letters, k=chance.randint(1, longest))) for _ in range(count)]


def framing(max_length: int, **options) -> Framing:
    return Framing(cls=CLS, eos=EOS, sentence_ends=np.array([END]), max_length=max_length, **options)
