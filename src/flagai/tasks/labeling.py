"""Texts → labelled spans with exact offsets: sequence labelling and named entities. Knows tags and spans, no model.

Everything outside is code points of the text as given; units and tokens (`units.py`) are an inner matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from flagai.data.example import Example
from flagai.data.record import Record
from flagai.errors import DataError, unknown_label
from flagai.tasks.base import Arrays, HeadSpec, Task, need_text
from flagai.tasks.decoders import Span, merge_windows
from flagai.tasks.labeling_heads import (
    CRFHead,
    EntityHead,
    PointerHead,
    TagHead,
    can_write,
    check_head,
    iob2_tags,
    is_tag_table,
    types_of,
)
from flagai.tasks.results import Entity
from flagai.tasks.units import Units, owned_by, units_of

if TYPE_CHECKING:
    import torch

Gold = tuple[tuple[int, int, str], ...]
"""entities as (start, end exclusive, type), sorted"""


class Labeling(Task):
    """Entities by softmax or CRF over tags, or by GlobalPointer over spans (nested ones too).

    A long text is read in windows; an entity is decided by the window that owns its start. An entity that this window
    does not hold whole, or that does not begin and end on token borders, cannot be found: the example says
    `target_cut`, and its units teach nothing. Heads that write tags also lose entities inside others.
    """

    name: ClassVar[str] = "sequence-labeling"
    kind: ClassVar[str] = "entities"
    needs_offsets: ClassVar[bool] = True
    used_options: ClassVar[frozenset[str]] = frozenset({"labels", "head", "dropout", "threshold", "inner_dim"})
    metric_names: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "f1_macro")

    def __init__(self, options: Any, tokenizer: Any, *, max_length: int, stride: int | None = None) -> None:
        super().__init__(options, tokenizer, max_length=max_length, stride=stride)
        self.labels: list[str] = []
        self._tags: list[str] = []
        self._constrained = True
        self._flat = False
        self._head_name = check_head(options.head)
        self._set_labels([str(label) for label in options.labels or ()])

    @property
    def best_metric(self) -> str:
        return "f1"

    # -- the label table ---------------------------------------------------------------------------------------

    def fit(self, records: Sequence[Record]) -> None:
        """The entity types (sorted, unless the options give them), and whether the training entities overlap."""
        golds = [self.gold(record) for record in records if record.get("label") is not None]
        kinds = sorted({kind for gold in golds for _, _, kind in gold})
        if not kinds:
            raise DataError(
                f"none of the {len(records)} training records has an entity",
                where=records[0].file if records else "",
                expected='entities as {"start", "end", "label"}, or tokens with B-/I- tags',
                fix="check data.columns.label",
            )
        if not self.labels:
            self._set_labels(kinds)
        self._constrained = can_write(self._tags)
        self._flat = not any(_overlap(gold) for gold in golds)
        self._make_head()

    def _set_labels(self, labels: Sequence[str]) -> None:
        # A table of tags comes from a model that others trained: its order stays, and its scheme may be any.
        given = is_tag_table(labels)
        self._tags = list(labels) if given else iob2_tags(labels)
        self.labels = types_of(self._tags) if given else list(labels)
        self._constrained = not given
        self._make_head()

    def _make_head(self) -> None:
        self._head = self._new_head()

    def _new_head(self) -> EntityHead:
        if self._head_name == "global-pointer":
            threshold = 0.5 if self.options.threshold is None else self.options.threshold
            return PointerHead(
                self.labels,
                inner_dim=self.options.inner_dim,
                dropout=self.options.dropout,
                threshold=threshold,
                flat=self._flat,
            )
        kind = CRFHead if self._head_name == "crf" else TagHead
        return kind(self._tags, constrained=self._constrained, dropout=self.options.dropout)

    @property
    def token_axes(self) -> Mapping[str, tuple[int, ...]]:  # type: ignore[override]
        return self._head.token_axes

    @property
    def shared_outputs(self) -> tuple[str, ...]:  # type: ignore[override]
        return self._head.shared_outputs

    def head(self) -> HeadSpec:
        return self._head.spec()

    def label_names(self) -> list[str]:
        """The entity types."""
        return self.labels

    def model_labels(self) -> list[str]:
        """The names of the model's classes: tags, or for GlobalPointer the entity types."""
        return self._head.label_names() if self.labels else []

    def labels_of(self, record: Record) -> list[str]:
        return [kind for _, _, kind in self.gold(record)] if record.get("label") is not None else []

    # -- records to batches ------------------------------------------------------------------------------------

    def encode_many(self, records: Sequence[Record], *, start: int = 0) -> list[list[Example]]:
        encoded = self.text_encoder([need_text(record, "text") for record in records])
        return [
            self._examples(record, item, start + i)
            for i, (record, item) in enumerate(zip(records, encoded, strict=True))
        ]

    def _examples(self, record: Record, encoded: Any, index: int) -> list[Example]:
        windows = [units_of(record.text, window.offsets or []) for window in encoded.windows]
        marks, cut = self._marks(record, windows)
        return [
            Example(
                input_ids=window.input_ids,
                token_type_ids=window.token_type_ids,
                offsets=window.offsets,
                record=index,
                target=None if marks is None else self._head.target(len(window.input_ids), units, *marks[i]),
                window=i,
                weight=1 / len(windows),
                tokens_lost=encoded.tokens_lost if i == 0 else 0,
                target_cut=cut and i == 0,
            )
            for i, (window, units) in enumerate(zip(encoded.windows, windows, strict=True))
        ]

    def _marks(
        self, record: Record, windows: Sequence[Units]
    ) -> tuple[list[tuple[list[tuple[int, int, str]], frozenset[int]]] | None, bool]:
        """For each window its entities in units and the units that teach nothing; and whether any entity is lost."""
        if record.get("label") is None:
            return None, False
        gold = self.gold(record)
        for _, _, kind in gold:
            if kind not in self.labels:
                raise unknown_label(kind, self.labels, where=record.where)
        kept = _outermost(gold) if isinstance(self._head, TagHead) else gold
        marks = [_mark(units, kept) for units in windows]
        held = sum(
            low <= entity[0] < high and units.find(entity[0], entity[1]) is not None
            for units, (low, high) in zip(windows, owned_by(record.text, windows), strict=True)
            for entity in kept
        )
        return marks, held < len(gold)

    def targets(self, examples: Sequence[Example], length: int) -> dict[str, np.ndarray]:
        """What the head compares with, see `labeling_heads.py`."""
        return self._head.targets([example.target for example in examples], length)

    # -- model outputs to answers ------------------------------------------------------------------------------

    def loss(
        self, outputs: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The head's loss. Windows are not weighted: a tag counts as a tag, in short texts and in long ones."""
        return self._head.loss(outputs, batch)

    def decode(self, rows: Sequence[Arrays], examples: Sequence[Example], record: Record) -> list[Entity]:
        """From the logits of each window, cut to its tokens: the entities of the whole text, sorted by start."""
        text = record.text
        windows = [units_of(text, example.offsets or []) for example in examples]
        found = [self._window_spans(row, units) for row, units in zip(rows, windows, strict=True)]
        merged = merge_windows(found, owned_by(text, windows), flat=self._head.flat)
        return [Entity(text[s.start : s.end], s.label, s.start, s.end, s.score) for s in merged]

    def _window_spans(self, row: Arrays, units: Units) -> list[Span]:
        """The entities of a window in code points."""
        if not units.first:
            return []
        return [
            Span(units.spans[span.start][0], units.spans[span.end - 1][1], span.label, span.score)
            for span in self._head.spans(row, units)
        ]

    def gold(self, record: Record) -> Gold:
        """The record's entities; space at their ends is not part of them."""
        found = set()
        for item in record.get("label") or ():
            start, end, kind = _entity(item, record)
            while start < end and record.text[start].isspace():
                start += 1
            while start < end and record.text[end - 1].isspace():
                end -= 1
            if start < end:
                found.add((start, end, kind))
        return tuple(sorted(found))

    def metrics(self, results: Sequence[Any], golds: Sequence[Any]) -> dict[str, float]:
        from flagai.measure.entities import entity_metrics

        return entity_metrics(golds, [triples(result) for result in results])

    def describe(self, results: Sequence[Any], golds: Sequence[Any], records: Sequence[Record]) -> dict[str, Any]:
        from flagai.tasks.describe_entities import describe_entities

        return describe_entities(results, golds, records)

    def state(self) -> dict[str, Any]:
        return {"labels": self.labels, "tags": self._tags, "constrained": self._constrained, "flat": self._flat}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.labels, self._tags = list(state["labels"]), list(state["tags"])
        self._constrained, self._flat = bool(state["constrained"]), bool(state["flat"])
        self._make_head()


def triples(entities: Sequence[Entity]) -> list[tuple[int, int, str]]:
    """Entities as `measure.entities` compares them."""
    return [(entity.start, entity.end, entity.label) for entity in entities]


def _entity(item: Any, record: Record) -> tuple[int, int, str]:
    try:
        start, end, kind = int(item["start"]), int(item["end"]), str(item["label"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"an entity is {item!r}", where=record.where, expected='{"start": 6, "end": 16, "label": "ORG"}'
        ) from error
    if not 0 <= start < end <= len(record.text):
        raise DataError(
            f"the entity {start}:{end} ({kind}) is not in the text of {len(record.text)} characters",
            where=record.where,
            expected="0 ≤ start < end ≤ length, in code points, the end exclusive",
            fix="offsets in bytes or UTF-16 units must be converted, inclusive ends raised by one",
        )
    return start, end, kind


def _overlap(gold: Gold) -> bool:
    """Sorted by start, entities overlap somewhere if and only if two neighbours do."""
    return any(after[0] < before[1] for before, after in pairwise(gold))


def _outermost(gold: Gold) -> list[tuple[int, int, str]]:
    """What tags can write: of entities that overlap the longest, of these the first."""
    kept: list[tuple[int, int, str]] = []
    for start, end, kind in sorted(gold, key=lambda entity: (entity[0] - entity[1], entity[0], entity[2])):
        if all(end <= other[0] or other[1] <= start for other in kept):
            kept.append((start, end, kind))
    return sorted(kept)


def _mark(units: Units, entities: Sequence[tuple[int, int, str]]) -> tuple[list[tuple[int, int, str]], frozenset[int]]:
    """The entities that a window holds whole, in units, and the units of those that it holds in part."""
    whole: list[tuple[int, int, str]] = []
    used: set[int] = set()
    partly: set[int] = set()
    for start, end, kind in entities:
        place = units.find(start, end)
        if place is None:
            partly.update(units.overlapping(start, end))
        else:
            whole.append((*place, kind))
            used.update(range(place[0], place[1] + 1))
    return whole, frozenset(partly - used)
