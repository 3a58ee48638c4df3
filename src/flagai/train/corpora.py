"""The data of pre-training: corpora, mixed and split, as examples and records of a run. Knows no model and no loop."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np

from flagai.config import DataConfig, RunConfig
from flagai.data.corpus import Corpus
from flagai.data.corpus_mix import Chain, Mixture
from flagai.data.corpus_samples import CorpusSamples, Framing, SampleSource
from flagai.data.example import Examples
from flagai.data.findings import Audit, Leak, SplitAudit, TokenAudit
from flagai.data.record import Record
from flagai.errors import ConfigError, DataError
from flagai.tasks.base import Task
from flagai.train.corpus_cache import open_or_build

Tell = Callable[[str], None]
Split = dict[str, list["Part"]]
_FRAME = 2  # [CLS] and eos


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some documents of a corpus that belong to a split."""

    corpus: Corpus
    name: str
    weight: float = 1.0
    documents: np.ndarray | None = None
    """their indices, None for all"""

    @functools.cached_property
    def keys(self) -> np.ndarray:
        """`Corpus.keys` of the documents."""
        return np.asarray(self.corpus.keys if self.documents is None else self.corpus.keys[self.documents])

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of the documents, special tokens counted."""
        return _FRAME + (self.corpus.lengths if self.documents is None else self.corpus.lengths[self.documents])

    def samples(self, framing: Framing, *, seed: int, vary: bool) -> CorpusSamples:
        """The documents as samples."""
        return CorpusSamples(self.corpus, framing, seed=seed, documents=self.documents, vary=vary)


@dataclass(frozen=True, kw_only=True)
class CorpusSources:
    """What pre-training reads: the examples of each split, made when asked for, and what they were made from."""

    examples: Mapping[str, Examples]
    records: Mapping[str, Sequence[Record]]
    parts: Mapping[str, Sequence[Part]]
    hashes: Mapping[str, str]
    max_length: int
    _audits: list[Audit] = field(default_factory=list)

    @property
    def hash(self) -> str:
        """What the order of the training examples depends on, beside the seed."""
        return self.hashes["train"]

    def golds(self, task: Task) -> list[Any]:
        """Texts to learn from have no answers."""
        return []

    def describe(self) -> dict[str, Any]:
        """For data.json: each split's files, the sha256 of their sources, sizes and hash."""
        return {
            split: {
                "file": " + ".join(part.name for part in parts),
                "sha256": _sources_sha256(parts),
                "records": sum(len(part.lengths) for part in parts),
                "samples": len(self.examples[split]),
                "tokens": int(self.examples[split].lengths.sum()),
                "hash": self.hashes[split],
            }
            for split, parts in self.parts.items()
        }

    def audit(self) -> Audit:
        """Sizes, repeated documents, and documents that are held out and trained on; a corpus cuts nothing."""
        if not self._audits:
            keys = {split: np.concatenate([part.keys for part in parts]) for split, parts in self.parts.items()}
            splits = {split: self._split_audit(split, keys[split]) for split in self.parts}
            audit = Audit(splits=splits, leaks=tuple(_leaks(keys)), worst=(), max_length=self.max_length)
            self._audits.append(audit)
        return self._audits[0]

    def _split_audit(self, split: str, keys: np.ndarray) -> SplitAudit:
        lengths = np.sort(np.concatenate([part.lengths for part in self.parts[split]]))
        total = int(lengths.sum())
        tokens = TokenAudit(
            read=int(self.examples[split].lengths.sum()),
            total=total,
            mean=total / len(lengths),
            p95=int(lengths[-(-95 * len(lengths) // 100) - 1]),
            max=int(lengths[-1]),
            lost=0,
            lost_share=0.0,
            windows=len(self.examples[split]),
            records_in_windows=int((lengths > self.max_length).sum()),
            records_truncated=0,
            targets_cut=0,
            records_losing=0,
        )
        return SplitAudit(
            records=len(lengths),
            tokens=tokens,
            empty=0,
            duplicates=len(keys) - len(np.unique(keys)),
            conflicts=0,
            conflict_records=0,
            unlabelled=0,
            labels={},
            unknown_labels={},
            unknown_records=0,
        )


def _leaks(keys: Mapping[str, np.ndarray]) -> Iterator[Leak]:
    names = list(keys)
    for source, target in ((a, b) for at, a in enumerate(names) for b in names[at + 1 :]):
        shared = np.flatnonzero(np.isin(keys[target], keys[source]))
        if not len(shared):
            continue
        first = int(np.flatnonzero(keys[source] == keys[target][shared[0]])[0])
        places = (f"document {first + 1} of {source}", f"document {int(shared[0]) + 1} of {target}", "")
        count = len(shared)
        yield Leak(source=source, target=target, records=count, share=count / len(keys[target]), examples=(places,))


def _sources_sha256(parts: Sequence[Part]) -> str:
    found = [str(source["sha256"]) for part in parts for source in part.corpus.info.sources]
    return found[0] if len(found) == 1 else hashlib.sha256("/".join(found).encode()).hexdigest()


class CorpusRecords(Sequence[Record]):
    """The samples of a split as records, decoded when they are looked at."""

    def __init__(self, examples: Examples, decode: Callable[[Any], str], name: str) -> None:
        self._examples, self._decode, self._name = examples, decode, name

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        ids = np.asarray(self._examples[index].input_ids)
        return Record({"text": self._decode(ids.tolist())}, self._name, index + 1)


def read_corpora(config: RunConfig, task: Any, files: Mapping[str, str], tell: Tell) -> CorpusSources:
    """The corpora of a run's splits; without `data.eval`, a seeded part of the training documents is held out.

    Args:
        task: a task that is trained on corpora (`BlankInfilling`).
        files: split → file or corpus; for `data.mixture` without train.

    Raises:
        ConfigError: settings that mean nothing to corpora.
        DataError, MissingFileError: files or corpora that cannot be used.
    """
    _refuse_stride(config.data)
    paths = {split: {path: 1.0} for split, path in files.items()}
    if config.data.mixture:
        paths["train"] = dict(config.data.mixture)
    parts: Split = {
        split: [
            Part(corpus=open_or_build(path, task, config.data, tell), name=Path(path).name, weight=weight)
            for path, weight in named.items()
        ]
        for split, named in paths.items()
    }
    if "eval" not in parts and config.data.holdout > 0:
        parts = _hold_out(parts, config.data.holdout, config.train.seed, tell)
    ordered = {split: parts[split] for split in ("train", "eval", "test") if split in parts}
    sources = {split: _source(split, ordered[split], task, config) for split in ordered}
    examples = {split: task.examples(source) for split, source in sources.items()}
    decode = functools.partial(task.tokenizer.decode, skip_special_tokens=True)
    return CorpusSources(
        examples=examples,
        records={split: CorpusRecords(made, decode, ordered[split][0].name) for split, made in examples.items()},
        parts=ordered,
        hashes={split: source.hash for split, source in sources.items()},
        max_length=task.max_length,
    )


def _source(split: str, parts: Sequence[Part], task: Any, config: RunConfig) -> SampleSource:
    train, seed = split == "train", config.train.seed
    framing = task.framing(join=train and config.data.join_documents)
    sources = [part.samples(framing, seed=seed, vary=train) for part in parts]
    if len(sources) == 1:
        return sources[0]
    return Mixture(sources, [part.weight for part in parts], seed=seed) if train else Chain(sources)


def _hold_out(parts: Split, fraction: float, seed: int, tell: Tell) -> Split:
    """Move a part of each training corpus to the evaluation data."""
    train, held = [], []
    for part in parts["train"]:
        learned, chosen = _held_out(part, fraction, seed)
        train.append(Part(corpus=part.corpus, name=part.name, weight=part.weight, documents=learned))
        held.append(Part(corpus=part.corpus, name=part.name, documents=chosen))
    count = sum(len(part.lengths) for part in held)
    tell(
        f"no data.eval given: {count:,} of the training documents ({fraction:.0%}, seed {seed}) are held out "
        "for evaluation"
    )
    return {**parts, "train": train, "eval": held}


def _held_out(part: Part, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, eval): indices of documents, ascending. Which side a document is on follows from (seed, document) alone,
    so that equal ones stay together, whatever their order."""
    ranks = _mixed(part.keys ^ np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64))
    different = np.unique(ranks)
    if len(different) < 2:
        raise DataError(
            "the corpus has one document: nothing can be held out",
            where=part.name,
            expected="two different documents or more",
            fix="set data.eval to a file, or data.eval_fraction: 0",
        )
    limit = different[min(max(1, round(fraction * len(different))), len(different) - 1)]
    return np.flatnonzero(ranks >= limit), np.flatnonzero(ranks < limit)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Each bit of the result depends on every bit of a value (the finaliser of SplitMix64)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


def _refuse_stride(data: DataConfig) -> None:
    if data.stride is not None:
        raise ConfigError(
            "data.stride means nothing to a corpus: long documents become windows that share no tokens",
            where="data.stride",
            expected="no stride",
            fix="take it out",
        )


def refuse_corpus_settings(config: RunConfig, *, prompts: bool = False) -> None:
    """Raise ConfigError for settings of corpora in a run whose task learns from records.

    Args:
        prompts: whether the task reads prompts all the same.
    """
    data = config.data
    used = {"mixture": data.mixture, "join_documents": data.join_documents}
    if not prompts:
        used["columns.prompt"] = data.columns.prompt
    for key, value in used.items():
        if value:
            raise ConfigError(
                f"data.{key} means nothing to the task {config.task.name!r}",
                where=f"data.{key}",
                expected="a task of pre-training such as blank-infilling",
                fix="take it out",
            )
