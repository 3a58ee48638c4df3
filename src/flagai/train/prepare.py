"""Everything that is checked before a model is built: files, labels, lengths, leaks. Knows no device and no loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagai.config import DataConfig, RunConfig
from flagai.data.audit import Audit, audit
from flagai.data.corpus import is_corpus
from flagai.data.example import Example
from flagai.data.readers.parallel import is_parallel
from flagai.data.record import Record
from flagai.data.records import Kind, data_hash, file_sha256, find_splits, read_records
from flagai.data.splits import split_records
from flagai.errors import ConfigError, DataError, UnknownLabelError
from flagai.tasks.base import Task
from flagai.train.corpora import CorpusSources, read_corpora, refuse_corpus_settings

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sources:
    """The records of each split and the file each came from."""

    records: Mapping[str, Sequence[Record]]
    files: Mapping[str, str]

    @property
    def hash(self) -> str:
        """The data hash of the order of examples: that of the training records."""
        return data_hash(self.records["train"])

    def golds(self, task: Task) -> list[Any]:
        """The answers of the training records."""
        return [task.gold(record) for record in self.records["train"]]

    def describe(self) -> dict[str, Any]:
        """For data.json: file, size and hash of each split."""
        return {
            split: {
                "file": self.files[split],
                "sha256": file_sha256(self.files[split]) if Path(self.files[split]).is_file() else "",
                "records": len(records),
                "hash": data_hash(records),
            }
            for split, records in self.records.items()
        }


@dataclass(frozen=True, slots=True)
class Prepared:
    """Data ready to train on."""

    sources: Sources | CorpusSources
    examples: Mapping[str, Sequence[Example]]
    audit: Audit

    @property
    def hash(self) -> str:
        """What the order of examples depends on, beside the seed."""
        return self.sources.hash


def read_sources(config: RunConfig, task: Task, tell: Tell) -> Sources | CorpusSources:
    """The files of `config.data`; without `eval`, a seeded part of the training records, said aloud."""
    files = _files(config.data)
    if task.from_corpus:
        return read_corpora(config, task, files, tell)
    refuse_corpus_settings(config, prompts=task.measured_by_loss)
    records = {
        split: read_split(config.data, path, task.kind, split, label_required=task.label_required)
        for split, path in files.items()
    }
    if "train" in records and "eval" not in records and config.data.holdout > 0:
        fraction, seed = config.data.holdout, config.train.seed
        stratify = task.label_names() is not None
        parts = split_records(records["train"], fraction=fraction, seed=seed, stratify=stratify)
        records["train"], records["eval"] = parts
        files["eval"] = files["train"]
        tell(
            f"no data.eval given: {len(records['eval'])} of the training records "
            f"({fraction:.0%}, seed {seed}) are held out for evaluation"
        )
    return Sources({split: records[split] for split in ("train", "eval", "test") if split in records}, files)


def read_split(data: DataConfig, path: str, kind: Kind, split: str, *, label_required: bool = True) -> list[Record]:
    """One file of records."""
    columns = {key: value for key, value in data.columns.model_dump().items() if value is not None}
    if kind == "text" and "text_pair" in columns:
        kind = "pair"
    encoding = None if data.encoding == "utf-8" else data.encoding  # None also reads a byte order mark
    records = read_records(path, columns=columns or None, kind=kind, label_required=label_required, encoding=encoding)
    if not records:
        raise DataError("the file holds no records", where=path, expected=f"examples for data.{split}")
    return records


def prepare(config: RunConfig, task: Task, sources: Sources | CorpusSources, tell: Tell) -> Prepared:
    """Fit the task, encode, audit, and refuse what would lose labels or text.

    Raises:
        DataError: a label the task does not know, a text beyond the model, or more damage than `fail_above`.
    """
    if isinstance(sources, CorpusSources):
        _tell_all(sources.audit(), tell)
        return Prepared(sources, sources.examples, sources.audit())
    task.fit(sources.records["train"])
    may_cut, task.may_cut = task.may_cut, True  # let the audit see every loss before the first one is refused
    try:
        examples = {split: _flat(task.encode_many(records)) for split, records in sources.records.items()}
    except UnknownLabelError:
        # The first unknown label is the error; the audit without tokens shows them all.
        _tell_all(_audit(task, sources, None), tell)
        raise
    task.may_cut = may_cut
    report = audit_splits(task, sources, examples)
    _tell_all(report, tell)
    for split, items in examples.items():
        task.check_fits(items, sources.records[split])
    if config.data.audit.fail_above is not None:
        report.check(config.data.audit.fail_above)
    return Prepared(sources, examples, report)


def audit_splits(task: Task, sources: Sources, examples: Mapping[str, Sequence[Example]]) -> Audit:
    """The audit, over encodings that are there already."""
    by_record = {
        id(record): windows
        for split, records in sources.records.items()
        for record, windows in zip(records, _grouped(examples[split], len(records)), strict=True)
    }
    return _audit(task, sources, lambda record, index: by_record[id(record)])


def _audit(task: Task, sources: Sources, encode: Callable[[Record, int], list[Example]] | None) -> Audit:
    labels, length = task.label_names(), task.max_length
    one_label = task.kind != "target"
    return audit(
        sources.records, encode, labels=labels, max_length=length, label_of=task.labels_of, one_label=one_label
    )


def _tell_all(report: Audit, tell: Tell) -> None:
    for line in report.lines():
        tell(line)


def _files(data: DataConfig) -> dict[str, str]:
    files = {split: path for split in ("train", "eval", "test") if (path := getattr(data, split)) is not None}
    train = files.get("train")
    if train is not None and Path(train).is_dir() and not is_corpus(train) and not is_parallel(Path(train)):
        found = {split: str(path) for split, path in find_splits(train).items()}
        if "train" not in found:
            raise DataError("the folder has no training file", where=train, expected="train.jsonl, train.csv, …")
        return found | {split: path for split, path in files.items() if split != "train"}
    return files


def training_file(config: RunConfig) -> str:
    """The training file; ConfigError where the run names none."""
    if config.data.mixture:
        return next(iter(config.data.mixture))
    if config.data.train is None:
        raise ConfigError(
            "there is no training file",
            where="data.train",
            expected="a file of examples, or a folder with a train file",
            fix="set data.train, or run `flagai init FILE`",
        )
    return _files(config.data)["train"]


def _flat(windows: list[list[Example]]) -> list[Example]:
    return [example for examples in windows for example in examples]


def _grouped(examples: Sequence[Example], count: int) -> list[list[Example]]:
    groups: list[list[Example]] = [[] for _ in range(count)]
    for example in examples:
        groups[example.record].append(example)
    return groups
