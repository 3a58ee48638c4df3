"""Files of documents → a corpus folder, in one process or several: the bytes are the same. Knows no model."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from flagai.data.corpus import (
    BOUND_TYPE,
    BOUNDS,
    INFO,
    KEY_TYPE,
    KEYS,
    TOKENS,
    Corpus,
    CorpusInfo,
    document_keys,
    id_type,
    is_corpus,
)
from flagai.data.corpus_rows import Block, Reading, blocks, documents
from flagai.data.records import file_sha256
from flagai.data.whole import whole_folder
from flagai.errors import ConfigError, DataError, OutputError

Encode = Callable[[Sequence[str]], Sequence[Sequence[int]]]
"""texts → the ids of each, without special tokens; with several workers it must be picklable"""

Progress = Callable[[int, int], None]
"""(bytes of the sources read, bytes in all)"""

_AHEAD: Final = 3  # blocks in flight for each worker: bounds the memory, keeps the workers busy


def build_corpus(
    files: Sequence[str | Path],
    folder: str | Path,
    encode: Encode,
    *,
    vocabulary_size: int,
    tokenizer: str,
    reading: Reading | None = None,
    workers: int = 1,
    replace: bool = False,
    mark: str = "",
    progress: Progress | None = None,
) -> Corpus:
    """Encode every row of the files and write the corpus, whole or not at all.

    Args:
        files: jsonl, txt (a document a line), json, csv, tsv or parquet, also with .gz; taken in the order given.
        folder: where the corpus goes.
        encode: see `Encode`.
        vocabulary_size: one more than the largest id; decides the type of the ids on disk.
        tokenizer: fingerprint of whatever `encode` does, kept in the corpus.
        reading: columns, encoding, rows without text.
        workers: processes that encode; the bytes on disk do not depend on it.
        replace: write over a corpus that is there.
        mark: part of the temporary folder's name, see `whole_folder`.

    Raises:
        DataError: a file that cannot be read, a row without text (file and line), no documents at all.
        OutputError: the folder holds something, or cannot be written.
    """
    paths, target = [Path(file) for file in files], Path(folder)
    if not paths:
        raise ConfigError("no file was named", expected="at least one file of documents")
    _check_target(target, replace)
    sources = [Source(path, file_sha256(path) if path.is_file() else "") for path in _checked(paths)]
    how = reading or Reading()
    with whole_folder(target, mark=mark) as temporary:
        info = _write(temporary, sources, encode, how, vocabulary_size, tokenizer, workers, progress)
        text = json.dumps(info.to_json(), ensure_ascii=False, indent=2)
        (temporary / INFO).write_text(text + "\n", encoding="utf-8")
    return Corpus(target, verify=False)


@dataclass(slots=True)
class Source:
    """A file and what came out of it."""

    path: Path
    sha256: str
    documents: int = 0

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def to_json(self) -> dict[str, Any]:
        """An entry of `CorpusInfo.sources`; the name alone, for a path says nothing on another machine."""
        return {"file": self.path.name, "sha256": self.sha256, "bytes": self.size, "documents": self.documents}


@dataclass(frozen=True, slots=True)
class Encoded:
    """A block's documents: their ids one after another, the sizes of prompt, text, prompt, text, …, and their keys."""

    ids: np.ndarray
    sizes: np.ndarray
    keys: np.ndarray
    skipped: int


def encode_block(block: Block, encode: Encode, reading: Reading, dtype: str) -> Encoded:
    """The ids of a block. Raises DataError for a row without tokens, with its line."""
    pairs, lines, skipped = documents(block, reading)
    prompted = [at for at, (prompt, _) in enumerate(pairs) if prompt]
    # One call for all texts of the block: fast tokenizers spread it over threads.
    encoded = encode([text for _, text in pairs] + [pairs[at][0] for at in prompted])
    texts, prompts = encoded[: len(pairs)], dict(zip(prompted, encoded[len(pairs) :], strict=True))
    parts: list[Sequence[int]] = []
    for at, ids in enumerate(texts):
        if len(ids) == 0 and reading.skip_empty:
            skipped += 1
            continue
        if len(ids) == 0:
            where = f"{block.file}:{lines[at]}"
            raise DataError(
                "the text has no tokens",
                where=where,
                expected="a text to learn from",
                fix="correct the row, or leave such rows out (flagai data corpus … --skip-empty)",
            )
        parts += [prompts.get(at, ()), ids]
    sizes = np.array([len(part) for part in parts], dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(parts), dtype=np.int64, count=int(sizes.sum()))
    return Encoded(_narrow(flat, dtype), sizes, document_keys(flat, sizes[::2] + sizes[1::2]), skipped)


def _narrow(ids: np.ndarray, dtype: str) -> np.ndarray:
    kind = np.dtype(dtype)
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) <= np.iinfo(kind).max:
        raise DataError(f"token ids from {ids.min()} to {ids.max()}", expected=f"ids that fit {dtype}")
    return ids.astype(kind.newbyteorder("<"))


class _Array:
    """A file of numbers that is written piece by piece and hashed on the way."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._hash = hashlib.sha256()
        self._size = 0

    def append(self, values: np.ndarray) -> None:
        data = values.tobytes()
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)

    def close(self) -> dict[str, Any]:
        self._file.close()
        return {"bytes": self._size, "sha256": self._hash.hexdigest()}


def _write(
    folder: Path,
    sources: list[Source],
    encode: Encode,
    reading: Reading,
    vocabulary_size: int,
    tokenizer: str,
    workers: int,
    progress: Progress | None,
) -> CorpusInfo:
    dtype = id_type(vocabulary_size)
    tokens, bounds, keys = (_Array(folder / name) for name in (TOKENS, BOUNDS, KEYS))
    bounds.append(np.zeros(1, dtype=BOUND_TYPE))
    total = prompts = longest = skipped = 0
    try:
        for source, part in _encoded(sources, encode, reading, dtype, workers, progress):
            ends = total + part.sizes.cumsum()
            tokens.append(part.ids)
            bounds.append(ends.astype(BOUND_TYPE))
            keys.append(part.keys.astype(KEY_TYPE))
            source.documents += len(part.sizes) // 2
            total += int(part.sizes.sum())
            prompts += int(part.sizes[::2].sum())
            longest = max(longest, int((part.sizes[::2] + part.sizes[1::2]).max(initial=0)))
            skipped += part.skipped
    finally:
        arrays = {TOKENS: tokens.close(), BOUNDS: bounds.close(), KEYS: keys.close()}
    if not total:
        raise DataError(
            "the files hold no documents",
            where=", ".join(str(source.path) for source in sources[:3]),
            expected="at least one row with a text",
            fix="name files with documents, or the column that holds them (data.columns.text in a run.yaml, --text)",
        )
    return CorpusInfo(
        dtype=dtype,
        documents=sum(source.documents for source in sources),
        tokens=total,
        prompt_tokens=prompts,
        longest=longest,
        skipped=skipped,
        vocabulary_size=vocabulary_size,
        tokenizer=tokenizer,
        sources=tuple(source.to_json() for source in sources),
        arrays=arrays,
    )


def _encoded(
    sources: list[Source], encode: Encode, reading: Reading, dtype: str, workers: int, progress: Progress | None
) -> Iterator[tuple[Source, Encoded]]:
    """The encoded blocks of all sources in the order of their rows."""
    pieces = _blocks(sources, reading, progress)
    if workers <= 1:
        for source, block in pieces:
            yield source, encode_block(block, encode, reading, dtype)
        return
    context = get_context("spawn")  # a fork beside the threads of torch and tokenizers may hang
    with ProcessPoolExecutor(workers, context, _start_worker, (encode, reading, dtype)) as pool:
        yield from _in_order(pool, pieces, workers * _AHEAD)


def _in_order(
    pool: ProcessPoolExecutor, pieces: Iterable[tuple[Source, Block]], ahead: int
) -> Iterator[tuple[Source, Encoded]]:
    waiting: deque[tuple[Source, Future[Encoded]]] = deque()
    try:
        for source, block in pieces:
            waiting.append((source, pool.submit(_work, block)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def _blocks(sources: list[Source], reading: Reading, progress: Progress | None) -> Iterator[tuple[Source, Block]]:
    done, total = 0, sum(source.size for source in sources)
    for source in sources:
        before = done

        def tell(read: int, before: int = before) -> None:
            if progress is not None:
                progress(before + read, total)

        for block in blocks(source.path, reading, tell):
            yield source, block
        done += source.size
        tell(source.size)


_WORK: dict[str, Any] = {}
"""what a worker process needs for every block; set once when it starts"""


def _start_worker(encode: Encode, reading: Reading, dtype: str) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes share the cores already
    _WORK.update(encode=encode, reading=reading, dtype=dtype)


def _work(block: Block) -> Encoded:
    return encode_block(block, _WORK["encode"], _WORK["reading"], _WORK["dtype"])


def _checked(paths: Iterable[Path]) -> list[Path]:
    from flagai.data.readers.files import require_file

    found = list(paths)
    for path in found:
        if path.is_dir():
            raise DataError(
                "a folder",
                where=str(path),
                expected="files of documents: .jsonl, .txt, .json, .csv, .tsv or .parquet, also with .gz",
                fix=f"name the files in it, as {path / '*.jsonl'}",
            )
        require_file(path)
    return found


def _check_target(target: Path, replace: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if is_corpus(target) and replace:
        return
    raise OutputError(
        "a corpus is here already" if is_corpus(target) else "the folder is not empty, and no corpus",
        where=str(target),
        expected="a new folder",
        fix="choose another folder" + (", or write over it with --force" if is_corpus(target) else ""),
    )
