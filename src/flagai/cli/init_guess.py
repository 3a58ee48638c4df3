"""Looks at a user's file and says what could be learned from it: task, columns, labels, lengths, splits.

It loads no model and no tokenizer, so lengths in tokens are estimates from the characters.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flagai.cli.init_targets import target_columns, target_task
from flagai.data.readers.columns import is_known
from flagai.data.readers.parallel import is_parallel
from flagai.data.record import Record
from flagai.data.records import Table, find_splits, guess_columns, read_records, read_table
from flagai.errors import ConfigError, DataError
from flagai.tasks.table import find_row
from flagai.text import is_cjk, language

_MANY_VALUES: Final = 10
"""so many different numbers under pairs of texts are a scale, fewer are classes"""
_SEPARATORS: Final = ("|", ";")
_SAMPLE: Final = 2000


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is in a file, as far as it can be told without a model."""

    train: Path
    eval: Path | None
    test: Path | None
    rows: int
    columns: Mapping[str, str]
    task: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """further keys of the task section"""
    labels: Mapping[str, int] = field(default_factory=dict)
    """label → rows, the most frequent first; empty where labels are numbers"""
    longest: int = 0
    median: int = 0
    """estimated tokens of a row"""
    language: str = "und"


def look(path: str | Path, task: str | None = None) -> Findings:
    """What could be learned from a file or a folder of splits.

    Args:
        path: any file that `flagai.data.records` reads, or a folder with train (dev, test) files.
        task: the task, where the user says it; None: guessed from columns and labels.

    Raises:
        MissingFileError, DataError: as `read_records`.
        ConfigError: no task can be guessed, for instance because there is no label.
    """
    train, others = _files(Path(path))
    table = read_table(train)
    targets = target_columns(table) if task is None or find_row(task).kind == "target" else None
    if targets is not None or (task is not None and find_row(task).kind == "target"):
        return _look_at_targets(train, others, task, targets, table)
    columns = _columns(table)
    records = read_records(train, columns=columns)
    guessed, options = _task(records, train, columns) if task is None else (task, _options_of(task, records))
    lengths = sorted(map(_tokens, records[:_SAMPLE]))
    return Findings(
        train=train,
        eval=others.get("eval"),
        test=others.get("test"),
        rows=len(records),
        columns=columns,
        task=guessed,
        options=options,
        labels={} if options.get("regression") else dict(_label_counts(records).most_common()),
        longest=lengths[-1],
        median=lengths[len(lengths) // 2],
        language=language(" ".join(record.text for record in records[:50])),
    )


def _look_at_targets(
    train: Path, others: Mapping[str, Path], task: str | None, columns: Mapping[str, str] | None, table: Table
) -> Findings:
    """What is found in sources and what is written for them; without a guess the reader says what is missing."""
    records = read_records(train, columns=columns, kind="target", label_required=True)
    lengths = sorted(map(_tokens, records[:_SAMPLE]))
    return Findings(
        train=train,
        eval=others.get("eval"),
        test=others.get("test"),
        rows=len(records),
        columns={} if columns is None or table.form == "parallel" else columns,
        task=task or target_task(columns or {}, table.header),
        longest=lengths[-1],
        median=lengths[len(lengths) // 2],
        language=language(" ".join(record.text for record in records[:50])),
    )


def _files(path: Path) -> tuple[Path, Mapping[str, Path]]:
    """The training file and its neighbours of the same set, if names tell."""
    if path.is_dir() and not (path / "seq.in").is_file() and not is_parallel(path):
        found = find_splits(path)
        if "train" not in found:
            raise DataError(
                f"no train split; the folder has {', '.join(found)}",
                expected="a file named train with a suffix such as .jsonl",
                fix="rename the file to learn from, or name it instead of the folder",
                where=str(path),
            )
        return found["train"], found
    try:
        found = find_splits(path.parent)
    except (DataError, FileNotFoundError):
        return path, {}
    return path, found if found.get("train") == path else {}


def _columns(table: Table) -> dict[str, str]:
    """As the names say; where no name says which is the text, the column with the longest texts."""
    if table.sentences:
        return {}
    rows = table.first_rows()
    columns = guess_columns(table.header, rows)
    texts = [name for name in table.header if name not in columns.values() and _mean_length(name, rows) > 0]
    if "text" not in columns and texts:
        columns["text"] = max(texts, key=lambda name: _mean_length(name, rows))
    others = [name for name in table.header if name not in columns.values() and not is_known(name)]
    if "label" not in columns and (label := _label_column(others, rows)):
        columns["label"] = label
    return columns


def _mean_length(name: str, rows: Sequence[Mapping[str, Any]]) -> float:
    values = [row.get(name) for row in rows]
    return sum(len(v) for v in values if isinstance(v, str)) / max(len(values), 1)


def _label_column(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The column with the fewest different values, if these repeat."""

    def different(name: str) -> int:
        return len({str(row.get(name)) for row in rows})

    repeating = [name for name in names if 1 < different(name) <= len(rows) / 2]
    return min(repeating, key=different, default=None)


def _task(records: Sequence[Record], file: Path, columns: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    labelled = [record.fields["label"] for record in records if record.get("label") is not None]
    if not labelled:
        raise ConfigError(
            f"no label found among the columns {', '.join(sorted({k for r in records[:20] for k in r.fields}))}",
            expected="a column with the label, the labels, the score or the entities of each row",
            fix="name that column `label`, or say what is to be learned: flagai init FILE --task NAME",
            where=str(file),
        )
    if _are_entities(labelled):
        return "ner", {}
    if any(record.get("text_pair") is not None for record in records):
        return "semantic-matching", {"regression": True} if _is_scale(labelled) else {}
    if any(isinstance(label, float) and not label.is_integer() for label in labelled):
        raise ConfigError(
            f"the label (column {columns.get('label', 'label')!r}) is a number such as {labelled[0]} of a single text",
            expected="classes, or numbers between pairs of texts",
            fix="cut the numbers into classes, or name the column of the second text `text_pair`",
            where=str(file),
        )
    return "classification", {"multi_label": True} if _are_several(labelled) else {}


def _options_of(task: str, records: Sequence[Record]) -> dict[str, Any]:
    labelled = [record.fields["label"] for record in records if record.get("label") is not None]
    if task == "classification" and labelled and _are_several(labelled):
        return {"multi_label": True}
    return {"regression": True} if task == "semantic-matching" and _is_scale(labelled) else {}


def _are_entities(labels: Sequence[Any]) -> bool:
    return any(isinstance(label, list) and label and isinstance(label[0], dict) for label in labels)


def _are_several(labels: Sequence[Any]) -> bool:
    """Lists, or texts of which a twentieth is cut by a separator into parts that stand in other combinations too."""
    if any(isinstance(label, list) for label in labels):
        return True
    values = {str(label): _parts(label) for label in labels}
    combinations = Counter(part for parts in values.values() for part in set(parts))
    joined = {value for value, parts in values.items() if len(parts) > 1 and all(combinations[p] > 1 for p in parts)}
    return bool(joined) and sum(str(label) in joined for label in labels) * 20 >= len(labels)


def _parts(label: Any) -> list[str]:
    for separator in _SEPARATORS:
        if isinstance(label, str) and separator in label:
            return [part.strip() for part in label.split(separator) if part.strip()]
    return [str(label)]


def _is_scale(labels: Sequence[Any]) -> bool:
    numbers = [_number(label) for label in labels]
    found = {number for number in numbers if number is not None}
    return None not in numbers and (len(found) > _MANY_VALUES or any(not n.is_integer() for n in found))


def _number(label: Any) -> float | None:
    if isinstance(label, bool) or not isinstance(label, int | float | str):
        return None
    try:
        value = float(label)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _label_counts(records: Sequence[Record]) -> Counter[str]:
    labels = [record.fields["label"] for record in records if record.get("label") is not None]
    if _are_entities(labels):
        return Counter(entity["label"] for label in labels for entity in label)
    if _are_several(labels):
        return Counter(p for label in labels for p in (map(str, label) if isinstance(label, list) else _parts(label)))
    return Counter(map(str, labels))


def _tokens(record: Record) -> int:
    """About how many tokens: one a CJK character, one for 3.5 others (WordPiece in English: 4 to 5), 3 special."""
    text = record.text + (record.get("text_pair") or "")
    wide = sum(map(is_cjk, text))
    return 3 + wide + math.ceil((len(text) - wide) / 3.5)
