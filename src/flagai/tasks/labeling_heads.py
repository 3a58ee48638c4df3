"""The two ways to write entities for a model and to read them back: a tag for each unit, or a score for each span.

Knows units and entity types, no text and no tokenizer. Importing it loads no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from flagai.data.batching import pad
from flagai.errors import ConfigError
from flagai.tasks.base import Arrays, HeadSpec
from flagai.tasks.decoders import Span, TagGrammar, decode_tags, spans_from_scores, split_tag, tag_grammar
from flagai.tasks.units import Units

if TYPE_CHECKING:
    import torch

NO_TAG: Final = -100
"""the label of a token that carries no tag, as torch's cross entropy ignores it"""

Marked = Sequence[tuple[int, int, str]]
"""entities of a window: first unit, last unit, type"""


class EntityHead(ABC):
    """How a head writes its target, computes its loss and reads its answer."""

    flat: bool
    """whether entities may not overlap"""
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    token_axes: ClassVar[Mapping[str, tuple[int, ...]]]
    shared_outputs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def spec(self) -> HeadSpec:
        """Which head the model gets."""

    @abstractmethod
    def label_names(self) -> list[str]:
        """The names of the model's classes, for config.json."""

    @abstractmethod
    def target(self, length: int, units: Units, entities: Marked, ignored: frozenset[int]) -> Any:
        """The target of a window of `length` tokens; the units in `ignored` teach nothing."""

    @abstractmethod
    def targets(self, each: Sequence[Any], length: int) -> dict[str, np.ndarray]:
        """A batch of what `target` gave, padded to `length` tokens."""

    @abstractmethod
    def loss(
        self, outputs: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(sum, count), see `Task.loss`."""

    @abstractmethod
    def spans(self, row: Arrays, units: Units) -> list[Span]:
        """The entities of one window, in units."""


class TagHead(EntityHead):
    """One tag a unit, by softmax; with the grammar of the tags both in Viterbi and in the probabilities.

    Args:
        tags: the names in the model's order.
        constrained: whether illegal sequences are excluded. A table that others trained (perhaps IOB1) is read as is.
        dropout: in front of the tags; None as the model's configuration says.
    """

    flat = True
    token_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {"logits": (0,)}

    def __init__(self, tags: Sequence[str], *, constrained: bool, dropout: float | None = None) -> None:
        self.tags = list(tags)
        self._dropout = dropout
        self._ids = {tag: i for i, tag in enumerate(self.tags)}
        self.grammar: TagGrammar | None = tag_grammar(self.tags) if constrained else None

    def spec(self) -> HeadSpec:
        return HeadSpec(body="token-classification", num_labels=len(self.tags), dropout=self._dropout)

    def label_names(self) -> list[str]:
        return self.tags

    def target(self, length: int, units: Units, entities: Marked, ignored: frozenset[int]) -> list[int]:
        """A tag id for each token; NO_TAG for all but the first token of a unit, and for what teaches nothing."""
        row = [NO_TAG] * length
        for unit, token in enumerate(units.first):
            if unit not in ignored:
                row[token] = self._ids["O"]
        for first, last, kind in entities:
            for unit, tag in zip(range(first, last + 1), self._write(kind, last - first + 1), strict=True):
                row[units.first[unit]] = tag
        return row

    def _write(self, kind: str, length: int) -> list[int]:
        """The tags of an entity in the scheme of the table: IOB2, or BIOES where it has such tags."""
        inside = self._ids.get(f"I-{kind}")
        begin = self._ids.get(f"B-{kind}", inside)
        inside = begin if inside is None else inside
        end, single = self._ids.get(f"E-{kind}", inside), self._ids.get(f"S-{kind}", begin)
        row = [single] if length == 1 else [begin, *[inside] * (length - 2), end]
        assert all(tag is not None for tag in row), f"no tag for {kind!r}"
        return [tag for tag in row if tag is not None]

    def targets(self, each: Sequence[Any], length: int) -> dict[str, np.ndarray]:
        """labels int64 [B, L]."""
        return {"labels": pad(each, NO_TAG, length=length)}

    def loss(
        self, outputs: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy, counted in tags."""
        from torch.nn.functional import cross_entropy

        logits, labels = outputs["logits"].float(), batch["labels"]
        total = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=NO_TAG, reduction="sum")
        return total, (labels != NO_TAG).sum().float()

    def spans(self, row: Arrays, units: Units) -> list[Span]:
        return decode_tags(row["logits"][units.first], self.tags, allowed=self.grammar)


class CRFHead(TagHead):
    """One tag a unit, by a linear-chain CRF."""

    shared_outputs: ClassVar[tuple[str, ...]] = ("transitions", "start_transitions", "end_transitions")

    def spec(self) -> HeadSpec:
        options = {"allowed": self.grammar.to_json()} if self.grammar else {}
        return replace(super().spec(), module="flagai.models.heads:CRF", options=options)

    def loss(
        self, outputs: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Negative log likelihood of the tag sequences, counted in tags."""
        from flagai.models.crf import crf_negative_log_likelihood

        mask = batch["labels"] != NO_TAG
        chain = [outputs[name] for name in self.shared_outputs]
        total = crf_negative_log_likelihood(outputs["logits"], batch["labels"], mask, *chain).sum()
        return total, mask.sum().float()

    def spans(self, row: Arrays, units: Units) -> list[Span]:
        chain = [row[name] for name in self.shared_outputs]
        return decode_tags(row["logits"][units.first], self.tags, *chain, allowed=self.grammar)


class PointerHead(EntityHead):
    """One score for every type and span of units (GlobalPointer); entities may nest unless `flat`.

    Args:
        labels: the entity types in the model's order.
        inner_dim, dropout: see `models.global_pointer.GlobalPointer`.
        threshold: the probability above which a span counts.
        flat: keep the best of overlapping spans only.
    """

    token_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {"logits": (1, 2)}

    def __init__(
        self, labels: Sequence[str], *, inner_dim: int, dropout: float | None, threshold: float, flat: bool
    ) -> None:
        self.labels = list(labels)
        self.flat = flat
        self._ids = {label: i for i, label in enumerate(self.labels)}
        self._options: dict[str, Any] = {"inner_dim": inner_dim, **({} if dropout is None else {"dropout": dropout})}
        self._threshold = float(np.log(threshold) - np.log1p(-threshold))

    def spec(self) -> HeadSpec:
        return HeadSpec(
            body="encoder",
            num_labels=len(self.labels),
            module="flagai.models.heads:GlobalPointer",
            options=self._options,
        )

    def label_names(self) -> list[str]:
        return self.labels

    def target(
        self, length: int, units: Units, entities: Marked, ignored: frozenset[int]
    ) -> tuple[list[int], list[tuple[int, int, int]]]:
        """A mask over the tokens (1: first of a unit that counts), and the entities as (type, first, last token)."""
        mask = [0] * length
        for unit, token in enumerate(units.first):
            mask[token] = int(unit not in ignored)
        return mask, [(self._ids[kind], units.first[first], units.first[last]) for first, last, kind in entities]

    def targets(self, each: Sequence[Any], length: int) -> dict[str, np.ndarray]:
        """spans int64 [B, most entities, 3], filled up with -1, and token_mask int64 [B, L]."""
        most = max(len(spans) for _, spans in each)
        spans = np.full((len(each), most, 3), -1, dtype=np.int64)
        for row, (_, entities) in zip(spans, each, strict=True):
            row[: len(entities)] = np.array(entities, dtype=np.int64).reshape(-1, 3)
        return {"spans": spans, "token_mask": pad([mask for mask, _ in each], 0, length=length)}

    def loss(
        self, outputs: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Multi-label cross entropy over the spans of units, counted in (text, type) pairs."""
        from flagai.models.global_pointer import mask_spans, sparse_global_pointer_loss

        total, count = sparse_global_pointer_loss(mask_spans(outputs["logits"], batch["token_mask"]), batch["spans"])
        return total.sum(), count.sum()

    def spans(self, row: Arrays, units: Units) -> list[Span]:
        scores = row["logits"][:, units.first][:, :, units.first]
        return spans_from_scores(scores, self.labels, self._threshold, flat=self.flat)


def is_tag_table(labels: Sequence[str]) -> bool:
    """Whether a list of labels is one of tags (O, B-PER, I-PER, …), not of entity types."""
    return "O" in labels and any(split_tag(label)[0] in "BIESMLU" and "-" in label for label in labels)


def types_of(tags: Sequence[str]) -> list[str]:
    """The entity types of a tag table, in order of their first tag."""
    return list(dict.fromkeys(split_tag(tag)[1] for tag in tags if tag != "O"))


def iob2_tags(labels: Sequence[str]) -> list[str]:
    """O, then B- and I- of each type."""
    return ["O", *(f"{prefix}-{label}" for label in labels for prefix in "BI")]


def can_write(tags: Sequence[str]) -> bool:
    """Whether each type has a tag that begins it, so that sequences can be held to the grammar."""
    return all(f"B-{kind}" in tags for kind in types_of(tags))


def check_head(name: str) -> str:
    """The head that an option names; "auto" is a softmax. Raises ConfigError for the head of another kind of task."""
    if name in ("softmax", "crf", "global-pointer"):
        return name
    if name == "auto":
        return "softmax"
    raise ConfigError(
        f"the head {name!r} labels no sequences",
        where="task.head",
        expected="softmax, crf or global-pointer",
        fix="remove task.head and choose the task ner, ner-crf or ner-gp",
    )
