"""`flagai init`: a commented run.yaml, and the schema beside it, from a user's file.

It knows how a run.yaml is written, not how the file was understood (`init_guess`) and not how the command line is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flagai.cli.init_guess import Findings, look
from flagai.config import json_schema, load_config
from flagai.config_text import parse_yaml, to_yaml
from flagai.errors import OutputError
from flagai.tasks.table import find_row

_MODELS: Final = {"zh": "RoBERTa-base-ch"}
_WRITERS: Final = {"zh": "GLM-large-ch"}
"""for tasks that write; the small English model learns that too"""
_DEFAULT_MODEL: Final = "all-MiniLM-L6-v2"
_LONGEST: Final = 512
_SHOWN_LABELS: Final = 8


@dataclass(frozen=True, kw_only=True)
class Written:
    """The two files that were written, and what was found, a sentence a line."""

    config: Path
    schema: Path
    summary: tuple[str, ...]


def init(
    file: str | Path,
    output: str | Path = "run.yaml",
    task: str | None = None,
    model: str | None = None,
    force: bool = False,
) -> Written:
    """Write a run.yaml that trains on `file`, with a comment on every line that was guessed.

    Args:
        file: the training data, or a folder with train (dev, test) files.
        output: the run.yaml to write; its schema for editors lies beside it as run.schema.json.
        task: a name of `flagai tasks`; None: guessed.
        model: a name, folder or hub id; None: a small model of the language of the texts.
        force: whether files that are there are replaced.

    Raises:
        OutputError: `output` is there already, or cannot be written.
        MissingFileError, DataError, ConfigError: the file cannot be used; nothing is written.
    """
    config, schema = Path(output), Path(output).with_suffix(".schema.json")
    if not force:
        _refuse_existing(config, schema)
    if task is not None:
        find_row(task)
    findings = look(file, task)
    models = _WRITERS if _writes(findings) else _MODELS
    text = render(findings, model or models.get(findings.language, _DEFAULT_MODEL), config)
    load_config(parse_yaml(text, str(config)).values)
    _write({schema: json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n", config: text})
    return Written(config=config, schema=schema, summary=tuple(_summary(findings)))


def _writes(findings: Findings) -> bool:
    """Whether what is learned are texts for texts."""
    return find_row(findings.task).kind == "target"


def _refuse_existing(config: Path, schema: Path) -> None:
    if config.exists():
        raise OutputError(
            "the file is there already",
            expected="a new name",
            fix="choose another one with -o, or replace it with --force",
            where=str(config),
        )
    # A schema of ours may be renewed, whatever else bears its name may not.
    if schema.exists() and json_schema()["title"] not in schema.read_text(encoding="utf-8", errors="replace"):
        raise OutputError(
            "a file of this name is there already, and it is no schema of a run.yaml",
            expected="a free name for the schema",
            fix="choose another run.yaml with -o, or replace the file with --force",
            where=str(schema),
        )


def _write(texts: dict[Path, str]) -> None:
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"cannot be written: {error.strerror or error}",
                expected="a folder that can be written to",
                fix="choose another place with -o",
                where=str(path),
            ) from error


def render(findings: Findings, model: str, config: Path) -> str:
    """The text of the run.yaml; paths in it are relative to the folder of `config`."""
    lines = [
        f"# yaml-language-server: $schema={config.with_suffix('.schema.json').name}",
        f"# Written by `flagai init` from {findings.train.name}. Train with:  flagai train {config.name}",
        "# Every key, with its meaning and default, is in the schema named above.",
        "",
        f"model: {_scalar(model)}  # a name of `flagai models`, a folder or a hub id",
        "",
        *_task_lines(findings),
        "",
        *_data_lines(findings, config.parent),
        "",
        *_train_lines(findings.rows, writes=_writes(findings)),
        "",
        f"output: {_scalar(f'runs/{_run_name(findings.train)}')}  # the trained model lands in final/ below it",
    ]
    return "\n".join(lines) + "\n"


def _task_lines(findings: Findings) -> Iterator[str]:
    yield "task:"
    yield f"  name: {_scalar(findings.task)}  # see `flagai tasks`"
    for key, value in findings.options.items():
        yield f"  {key}: {_scalar(value)}"
    if not findings.labels:
        return
    shown = [f"{label} ({count})" for label, count in list(findings.labels.items())[:_SHOWN_LABELS]]
    more = f" and {len(findings.labels) - len(shown)} more" if len(findings.labels) > len(shown) else ""
    found = f"{len(findings.labels)} labels found: {', '.join(shown)}{more}"
    yield f"  # {' '.join(found.split())}"  # a label may hold a line break, which would end the comment
    counts = list(findings.labels.values())
    if findings.task == "classification" and counts[0] > 10 * counts[-1]:
        yield "  # some labels are rare; their rows can weigh more:"
        yield "  # class_weights: balanced"


def _data_lines(findings: Findings, folder: Path) -> Iterator[str]:
    yield "data:"
    yield f"  train: {_path(findings.train, folder)}  # {findings.rows} rows"
    if findings.eval:
        yield f"  eval: {_path(findings.eval, folder)}"
    else:
        yield "  # eval: dev.jsonl"
        yield "  eval_fraction: 0.1  # part of train that is held out, as there is no eval file"
    if findings.test:
        yield f"  test: {_path(findings.test, folder)}  # measured once, at the end"
    if findings.columns:
        yield "  columns:  # canonical name: column of the file"
        yield from (f"    {name}: {_scalar(column)}" for name, column in findings.columns.items())
    yield f"  # texts have about {findings.median} tokens, the longest {findings.longest} (estimated)"
    yield f"  max_length: {_max_length(findings.longest)}"
    if findings.longest > _LONGEST and _writes(findings):
        yield "  # longer sources lose their end, or the part that task.truncation names"
    elif findings.longest > _LONGEST:
        yield "  # longer texts are cut; with a stride they are read in windows that share so many tokens:"
        yield f"  # stride: {_LONGEST // 4}"
    yield "  # audit: {fail_above: 0.01}  # stop if more than this share of rows is damaged"


def _train_lines(rows: int, *, writes: bool) -> Iterator[str]:
    epochs = 10 if rows < 2000 else 5 if rows < 20_000 else 3
    yield "train:"
    yield f"  epochs: {epochs}"
    yield "  batch_size: 32  # examples of one step; or batch_tokens: 4096 instead"
    yield "  learning_rate: 5e-5"
    yield "  # precision: bf16  # faster where the processor has it"
    yield "  # early_stopping: 3  # after so many evaluations without a better one"
    if writes:
        yield "  eval_written: 100  # of so many eval rows answers are written while it trains, of all at the end"
        yield "  best_metric: rouge_l"
    yield "  seed: 42"
    if writes:
        yield "generate:  # how answers are written"
        yield "  num_beams: 4"


def _max_length(longest: int) -> int:
    """The next multiple of 32 with a fifth to spare, since the estimate may be low."""
    return min(_LONGEST, max(32, -(-longest * 6 // 5 // 32) * 32))


def _path(path: Path, folder: Path) -> str:
    try:
        return _scalar(Path(os.path.relpath(path, folder)).as_posix())
    except ValueError:  # another drive
        return _scalar(str(path.resolve()))


def _scalar(value: Any) -> str:
    return to_yaml({"v": value}).removeprefix("v: ").strip().replace("\n", " ")


def _run_name(train: Path) -> str:
    name = train.name.split(".")[0]
    return train.resolve().parent.name or name if name in {"train", "training"} else name


def _summary(findings: Findings) -> Iterator[str]:
    columns = ", ".join(f"{name} = {column!r}" for name, column in findings.columns.items())
    yield f"{findings.rows} rows in {findings.train}" + (f" ({columns})" if columns else "")
    yield f"task {findings.task}" + "".join(f", {key}" for key, value in findings.options.items() if value is True)
    if findings.labels:
        (most, *_), (*_, least) = findings.labels, findings.labels
        yield f"{len(findings.labels)} labels, most rows: {most!r} ({findings.labels[most]}), fewest: {least!r}"
    yield f"about {findings.median} tokens a row, at most {findings.longest}"
