"""`flagai predict`: an argument, a file or standard input → JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from flagai.cli.folders import columns_of, predictor_of, predictor_of_model
from flagai.cli.stdin import standard_input
from flagai.data.record import Record
from flagai.errors import ConfigError, DataError, OutputError

if TYPE_CHECKING:
    from flagai.predict.predictor import Predictor
    from flagai.tasks.generation import GenerationTask

_LINES = 1024  # lines of standard input answered together


def predict(
    words: Sequence[str],
    file: Path | None,
    output: Path | None,
    *,
    model: str | None,
    task: str | None,
    settings: Sequence[str],
    stream: bool,
    encoding: str | None,
    device: str,
    precision: str,
    batch_tokens: int | None,
    offline: bool,
) -> None:
    """Answer and write.

    Args:
        words: the folder unless `model` is given, then a text and its pair, as far as given.
        settings: `option=value` of how a task that writes chooses its words.
        stream: show answers as plain text while they grow, instead of JSON.
    """
    from flagai.tasks.results import dumps, to_json

    folder, text, text_pair = _arguments(words, model, task)
    if text is not None and file is not None:
        raise ConfigError("a text and --file are both given", fix="give one of them")
    if stream and output is not None:
        raise ConfigError("--stream and --output are both given", fix="give one of them")
    options = {"device": device, "precision": precision, "offline": offline}
    if folder is not None:
        predictor, columns = predictor_of(folder, **options), columns_of(folder)
    else:
        predictor, columns = predictor_of_model(str(model), task, **options), {}
    if settings:
        _set(predictor, settings)
    if stream:
        _check_writes(predictor, "--stream")
    with _target(output) as target:
        if stream:
            _stream(predictor, _records(text, text_pair, file, predictor.task.kind, encoding, columns), target)
            return
        for records in _chunks(_records(text, text_pair, file, predictor.task.kind, encoding, columns)):
            for result in predictor.predict_records(records, batch_tokens=batch_tokens):
                target.write(dumps(to_json(result)) + "\n")
            target.flush()


def _arguments(words: Sequence[str], model: str | None, task: str | None) -> tuple[Path | None, str | None, str | None]:
    """(folder, text, second text)"""
    if model is None and task is not None:
        raise ConfigError(
            "--task without --model", where="--task", fix="a trained folder brings its task: leave it out"
        )
    if model is None and not words:
        raise ConfigError("no model is named", expected="a trained folder, or --model with --task")
    folder = Path(words[0]) if model is None else None
    texts = [*words[folder is not None :], None, None]
    if len(texts) > 4:
        raise ConfigError(f"{texts[2]!r} is one text too many", expected="a text, or the two texts of a pair")
    return folder, texts[0], texts[1]


def _set(predictor: Predictor, settings: Sequence[str]) -> None:
    from flagai.config_text import parse_overrides
    from flagai.generate.options import make_options

    task = _check_writes(predictor, "--set")
    task.generation = make_options(dict(parse_overrides(settings)), task.generation)


def _check_writes(predictor: Predictor, where: str) -> GenerationTask:
    """The task of a predictor. Raises ConfigError for one that does not write."""
    from flagai.tasks.generation import GenerationTask

    task = predictor.task
    if not isinstance(task, GenerationTask):
        raise ConfigError(f"the task {task.options.name!r} does not write", where=where, fix=f"leave {where} out")
    return task


def _stream(predictor: Predictor, records: Iterable[Record], target: TextIO) -> None:
    """Each answer while it grows, a line for each blank of a text."""
    for record in records:
        last = 0

        def show(_: int, blank: int, piece: str) -> None:
            nonlocal last
            target.write("\n" * (blank - last) + piece)
            target.flush()
            last = blank

        predictor.generate([record], stream=show)
        target.write("\n")
        target.flush()


def _records(
    text: str | None, text_pair: str | None, file: Path | None, kind: Any, encoding: str | None, hints: dict[str, str]
) -> Iterable[Record]:
    if text is not None:
        return [Record({"text": text} if text_pair is None else {"text": text, "text_pair": text_pair})]
    if file is None:
        return (_from_line(line, number) for number, line in enumerate(standard_input(encoding), start=1))
    from flagai.data.readers.conll import looks_like_conll
    from flagai.data.readers.files import read_text

    if file.suffix == ".txt" and not (kind == "entities" and looks_like_conll(read_text(file))):
        lines = read_text(file, encoding).splitlines()
        return [_from_line(line, number, str(file)) for number, line in enumerate(lines, start=1)]
    from flagai.data.records import read_records

    return read_records(file, kind=kind, hints=hints, encoding=encoding)


def _from_line(line: str, number: int, file: str = "standard input") -> Record:
    line = line.rstrip("\r\n")
    if line.startswith("{"):
        try:
            return Record(json.loads(line), file, number)
        except json.JSONDecodeError as error:
            raise DataError(
                f"no JSON: {error}",
                where=f"{file}:{number}",
                expected='a text or {"text": "…"}',
                fix="correct the line",
            ) from None
    first, tab, second = line.partition("\t")
    return Record({"text": first, "text_pair": second} if tab else {"text": line}, file, number)


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    iterator = iter(records)
    while chunk := list(islice(iterator, _LINES)):
        yield chunk


@contextlib.contextmanager
def _target(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears only when it is complete."""
    from flagai.train.files import is_system_error

    if output is None:
        try:
            yield sys.stdout
        except BrokenPipeError:
            # The reader (`| head`) has gone; that is its right. What is left in the buffer goes nowhere at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    temporary = output.with_name(f".writing-{output.name}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            yield file
        temporary.replace(output)
    except OSError as error:
        if is_system_error(error):
            raise OutputError(
                f"it cannot be written: {error.strerror or error}",
                where=str(output),
                expected="a folder you may write to, with free space",
                fix="free some space, or name another file with -o",
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
