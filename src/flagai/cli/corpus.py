"""`flagai data corpus`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import typer

from flagai.errors import FlagaiError

_REFRESH_SECONDS = 0.2


def corpus(
    files: Sequence[Path],
    out: Path,
    tokenizer: str,
    *,
    text: str,
    prompt: str,
    encoding: str | None,
    skip_empty: bool,
    workers: int | None,
    force: bool,
    offline: bool,
) -> None:
    from flagai.data.corpus_build import build_corpus
    from flagai.data.corpus_rows import Reading
    from flagai.models.tokenizers import build_tokenizer
    from flagai.tasks.corpus_examples import TextIds, Vocabulary

    made = build_tokenizer(_located(tokenizer, offline))
    encode = TextIds(made)
    vocabulary = Vocabulary.of(made, encode)
    began, progress = time.perf_counter(), _Progress()
    built = build_corpus(
        files,
        out,
        encode,
        vocabulary_size=vocabulary.size,
        tokenizer=vocabulary.fingerprint,
        reading=Reading(prompt=prompt, text=text, encoding=encoding, skip_empty=skip_empty),
        workers=workers or _workers(files),
        replace=force,
        progress=progress.show,
    )
    progress.end()
    info, seconds = built.info, time.perf_counter() - began
    size = sum(int(array["bytes"]) for array in info.arrays.values())
    typer.echo(
        f"{info.documents:,} documents, {info.tokens:,} tokens ({info.prompt_tokens:,} of prompts, "
        f"longest document {info.longest:,}), {info.dtype}, {size / 2**20:.1f} MiB in {seconds:.1f} s → {out}"
    )
    if info.skipped:
        typer.echo(f"{info.skipped:,} rows without text were left out")
    typer.echo(f"next: data.train: {out} in a run.yaml with task: blank-infilling")


def _located(tokenizer: str, offline: bool) -> Path:
    """The tokenizer's folder; what is wrong with its name is told as the user typed it."""
    from flagai.auto import locate

    try:
        return locate(tokenizer, offline=offline)
    except FlagaiError as error:
        if error.where != "model.name":
            raise
        raise type(error)(error.found, expected=error.expected, fix=error.fix, where="--tokenizer") from error


def _workers(files: Sequence[Path]) -> int:
    """Processes start slowly, and a fast tokenizer uses all cores by itself: several pay off from many megabytes on."""
    size = sum(path.stat().st_size for path in files if path.is_file())
    return 1 if size < 1 << 28 else min(os.cpu_count() or 1, 32)


class _Progress:
    """One line in a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._drawn = 0.0

    def show(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if self._live and now - self._drawn > _REFRESH_SECONDS:
            self._drawn = now
            sys.stderr.write(f"\r\x1b[K{done / 2**20:,.0f} of {total / 2**20:,.0f} MiB ({done / max(1, total):.0%})")
            sys.stderr.flush()

    def end(self) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
