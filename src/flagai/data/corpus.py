"""Token corpora on disk: documents as flat arrays of ids behind a memory map. Knows no tokenizer, no text and no model.

A corpus is a folder:

    tokens.bin    the ids of all documents, one after another, each as prompt ids + text ids; no special tokens
    bounds.bin    int64 [2·documents + 1]: where each prompt begins, where its text begins, …, where the last text ends
    keys.bin      uint64 [documents]: equal documents have equal keys
    corpus.json   version, types, counts, the tokenizer's fingerprint, sha256 of the sources and of the arrays

All numbers are little-endian. `corpus_build.build_corpus` writes it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from flagai.errors import DataError, MissingFileError

INFO: Final = "corpus.json"
TOKENS: Final = "tokens.bin"
BOUNDS: Final = "bounds.bin"
KEYS: Final = "keys.bin"
VERSION: Final = 1
BOUND_TYPE: Final = np.dtype("<i8")
KEY_TYPE: Final = np.dtype("<u8")
_PROGRAM: Final = "flagai"
_TYPES: Final = ("uint16", "int32")


@dataclass(frozen=True, kw_only=True)
class CorpusInfo:
    """What corpus.json says of a corpus, beside the version of the format."""

    dtype: str
    """of an id: "uint16" where the vocabulary allows it, else "int32" """
    documents: int
    tokens: int
    prompt_tokens: int
    longest: int
    """tokens of the longest document"""
    skipped: int
    """rows without text that were left out"""
    vocabulary_size: int
    tokenizer: str
    """fingerprint of the tokenizer that made the ids"""
    sources: tuple[Mapping[str, Any], ...]
    """file (its name), sha256, bytes and documents of each source"""
    arrays: Mapping[str, Mapping[str, Any]]
    """bytes and sha256 of each array"""

    def to_json(self) -> dict[str, Any]:
        """The content of corpus.json."""
        return {"program": _PROGRAM, "version": VERSION, **asdict(self)}

    @property
    def hash(self) -> str:
        """sha256 over ids, bounds and tokenizer: equal for equal documents, whatever files they came from."""
        parts = [self.dtype, self.tokenizer, *(self.arrays[name]["sha256"] for name in (TOKENS, BOUNDS))]
        return hashlib.sha256("/".join(parts).encode()).hexdigest()


def id_type(vocabulary_size: int) -> str:
    """The smallest type that holds every id of a vocabulary: "uint16" or "int32"."""
    return "uint16" if vocabulary_size <= 1 << 16 else "int32"


def is_corpus(path: str | Path) -> bool:
    """Whether a folder says that it is a corpus."""
    return (Path(path) / INFO).is_file()


class Corpus:
    """The documents of a corpus folder; nothing is read before it is asked for.

    `corpus[i]` is document i as a read-only view [n] of the memory map: its prompt ids, then its text ids.

    Args:
        folder: what `build_corpus` wrote.
        verify: compare the sha256 of the arrays too, once a process; their sizes are compared always.
        tokenizer: the fingerprint that the corpus must have been made with.

    Raises:
        MissingFileError: there is no such folder, or no corpus in it.
        DataError: it is damaged, of a newer version, or made with another tokenizer.
    """

    def __init__(self, folder: str | Path, *, verify: bool = True, tokenizer: str | None = None) -> None:
        self.folder = Path(folder)
        self.info = read_info(self.folder)
        if tokenizer is not None and tokenizer != self.info.tokenizer:
            raise _other_tokenizer(self.folder, self.info.tokenizer, tokenizer)
        _check_files(self.folder, self.info, verify)
        self._tokens = np.memmap(self.folder / TOKENS, dtype=np.dtype(self.info.dtype).newbyteorder("<"), mode="r")
        self._bounds = np.memmap(self.folder / BOUNDS, dtype=BOUND_TYPE, mode="r")
        self._keys = np.memmap(self.folder / KEYS, dtype=KEY_TYPE, mode="r")
        if len(self._keys) != self.info.documents:
            raise _damaged(self.folder, f"{KEYS} and {INFO} count differently")
        _check_bounds(self.folder, self._bounds, self.info)

    def __len__(self) -> int:
        return self.info.documents

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        return self._tokens[self._bounds[2 * index] : self._bounds[2 * index + 2]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, prompt and text, int64 [documents]."""
        return np.diff(self._bounds[::2])

    def prompt_length(self, index: int) -> int:
        """Tokens of one document's prompt."""
        return int(self._bounds[2 * index + 1] - self._bounds[2 * index])

    @property
    def keys(self) -> np.ndarray:
        """A number for each document that equal documents share (others one time in 2⁶⁴), uint64 [documents]."""
        return self._keys


def document_keys(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`Corpus.keys` of documents of `lengths` ids that stand one after another in `ids`.

    Sums of (id + 1) · factor, modulo 2⁶⁴; the factor is a fixed random odd number for each place in a document.
    """
    if not len(lengths):
        return np.zeros(0, dtype=np.uint64)
    starts = lengths.cumsum() - lengths
    factors = np.random.Philox(key=0).random_raw(int(lengths.max())) | np.uint64(1)
    places = np.arange(len(ids)) - starts.repeat(lengths)
    return np.add.reduceat((ids.astype(np.uint64) + np.uint64(1)) * factors[places], starts)


def read_info(folder: Path) -> CorpusInfo:
    """The content of a corpus.json. Errors as of `Corpus`."""
    path = folder / INFO
    if not path.is_file():
        raise MissingFileError(
            "no corpus is here" if folder.is_dir() else "there is no such folder",
            where=str(folder),
            expected=f"a folder with {INFO}",
            fix="build it: flagai data corpus FILES --out FOLDER --tokenizer FOLDER",
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        program, version = values.pop("program"), values.pop("version")
        newer = version > VERSION
        info = None if newer else CorpusInfo(**{**values, "sources": tuple(values["sources"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, f"{INFO} cannot be read ({error})") from error
    if newer:
        raise DataError(
            f"the corpus has version {version}", where=str(folder), expected=f"at most {VERSION}", fix="upgrade flagai"
        )
    if program != _PROGRAM or info is None or info.dtype not in _TYPES or info.arrays.keys() != {TOKENS, BOUNDS, KEYS}:
        raise _damaged(folder, f"{INFO} is not what flagai writes")
    return info


def _check_files(folder: Path, info: CorpusInfo, verify: bool) -> None:
    for name, told in info.arrays.items():
        path = folder / name
        if not path.is_file():
            raise _damaged(folder, f"{name} is missing")
        status = path.stat()
        if status.st_size != told["bytes"]:
            raise _damaged(folder, f"{name} has {status.st_size} bytes, {told['bytes']} were written")
        if verify and _hash(str(path.resolve()), status.st_size, status.st_mtime_ns) != told["sha256"]:
            raise _damaged(folder, f"{name} holds other bytes than were written")


@functools.lru_cache(maxsize=256)
def _hash(path: str, size: int, mtime_ns: int) -> str:
    """The sha256 of a file, read once a process as long as size and time do not change."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_bounds(folder: Path, bounds: np.ndarray, info: CorpusInfo) -> None:
    """The ends; what lies between is the hash's business."""
    if len(bounds) != 2 * info.documents + 1 or bounds[0] != 0 or bounds[-1] != info.tokens:
        raise _damaged(folder, f"{BOUNDS} and {INFO} count differently")


def _damaged(folder: Path, what: str) -> DataError:
    return DataError(
        f"the corpus is damaged: {what}",
        where=str(folder),
        expected="the files as they were written",
        fix="copy it again, or build it again from its sources (flagai data corpus)",
    )


def _other_tokenizer(folder: Path, there: str, here: str) -> DataError:
    return DataError(
        "the corpus was made with another tokenizer",
        where=str(folder),
        expected=f"token ids with the fingerprint {here[:12]}, found {there[:12]}",
        fix="build it again with the tokenizer of this model: flagai data corpus FILES --out FOLDER --tokenizer FOLDER",
    )
