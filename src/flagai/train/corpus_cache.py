"""A path of a run → its corpus: a corpus folder, or a file whose corpus is made once and kept. Knows no loop."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from flagai.config import DataConfig
from flagai.data.corpus import VERSION, Corpus, is_corpus
from flagai.data.corpus_build import build_corpus
from flagai.data.corpus_rows import Reading
from flagai.data.readers.files import require_file
from flagai.data.records import file_sha256
from flagai.errors import DataError

CACHE: Final = "FLAGAI_CACHE"
"""environment variable: the folder where corpora made on the fly are kept; default ~/.cache/flagai"""


def open_or_build(path: str, task: Any, data: DataConfig, tell: Callable[[str], None]) -> Corpus:
    """The corpus in a folder, or that of a file: built once for the file's content and the tokenizer, then kept.

    Args:
        task: gives `text_ids` and `vocabulary`, see `tasks/corpus_examples.py`.

    Raises:
        MissingFileError, DataError: there is nothing, or what cannot be used.
    """
    fingerprint = task.vocabulary.fingerprint
    if is_corpus(path):
        return Corpus(path, tokenizer=fingerprint)
    require_file(Path(path))
    if Path(path).is_dir():
        raise DataError(
            "the folder holds no corpus",
            where=path,
            expected="corpus.json, as `flagai data corpus` writes it, or a file of documents",
            fix="name the file, or build a corpus of several: flagai data corpus FILES --out FOLDER --tokenizer FOLDER",
        )
    reading = Reading(prompt=data.columns.prompt or "prompt", text=data.columns.text or "text", encoding=data.encoding)
    folder = _kept(path, fingerprint, reading)
    if is_corpus(folder):
        try:
            return Corpus(folder, tokenizer=fingerprint)
        except DataError as error:
            tell(f"the corpus in the cache is made again: {error.found}")
    return _build(path, folder, task, reading, tell)


def _build(path: str, folder: Path, task: Any, reading: Reading, tell: Callable[[str], None]) -> Corpus:
    tell(f"making a token corpus of {path}; for many large files, `flagai data corpus` does it in several processes")
    corpus = build_corpus(
        [path],
        folder,
        task.text_ids,
        vocabulary_size=task.vocabulary.size,
        tokenizer=task.vocabulary.fingerprint,
        reading=reading,
        replace=True,
        mark=f"{os.getpid()}-",
    )
    tell(f"{path}: {len(corpus):,} documents, {corpus.info.tokens:,} tokens, kept in {folder}")
    return corpus


def _kept(path: str, fingerprint: str, reading: Reading) -> Path:
    """Where the corpus of a file lies: the name says its content, how it is read, and the tokenizer."""
    # With the suffix, which decides how a file is read.
    key = json.dumps([VERSION, Path(path).suffixes, file_sha256(path), fingerprint, repr(reading)])
    return cache_folder() / "corpora" / hashlib.sha256(key.encode()).hexdigest()[:32]


def cache_folder() -> Path:
    """Where flagai keeps what it can make again."""
    told, root = os.environ.get(CACHE), os.environ.get("XDG_CACHE_HOME")
    return Path(told).expanduser() if told else Path(root or Path.home() / ".cache") / "flagai"
