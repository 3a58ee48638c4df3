"""Texts or pairs of texts → one label, or any number of them. Knows labels and probabilities, no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from flagai.data.example import Example
from flagai.data.record import Record
from flagai.errors import ConfigError, DataError, unknown_label, unknown_name
from flagai.tasks.base import Arrays, HeadSpec, Runner, Task, need_text
from flagai.tasks.decoders import sigmoid, softmax
from flagai.tasks.results import Label, Labels

if TYPE_CHECKING:
    import torch

_TOP_LABELS = 10


class Classification(Task):
    """Single-label (softmax) or multi-label (one sigmoid a label) classification of a text or a pair.

    A long text in windows gets the mean of their probabilities; in training each window weighs 1 / windows.
    """

    name: ClassVar[str] = "classification"
    kind: ClassVar[Literal["text", "pair", "entities"]] = "text"
    used_options: ClassVar[frozenset[str]] = frozenset(
        {
            "labels",
            "multi_label",
            "class_weights",
            "head",
            "pooling",
            "scale",
            "dropout",
            "label_smoothing",
            "threshold",
        }
    )

    def __init__(self, options: Any, tokenizer: Any, *, max_length: int, stride: int | None = None) -> None:
        super().__init__(options, tokenizer, max_length=max_length, stride=stride)
        self.multi_label: bool = options.multi_label
        self.labels: list[str] = []
        self.class_weights: list[float] | None = None
        self.thresholds: list[float] = []
        if options.labels:
            self._set_labels(options.labels)
        self._refuse_idle_options()
        if self.multi_label and options.label_smoothing:
            raise ConfigError(
                "label smoothing needs one label a text, and task.multi_label is set",
                where="task.label_smoothing",
                expected="0 with task.multi_label: true",
                fix="take one of the two out",
            )

    def _refuse_idle_options(self) -> None:
        """Options that mean nothing beside the others; `head: auto` is not decided yet."""
        idle = {
            "scale": self.options.head == "linear",
            "threshold": not self.multi_label,
        }
        for key, without_effect in idle.items():
            if without_effect and getattr(self.options, key) is not None:
                needed = "task.head: cosine" if key == "scale" else "task.multi_label: true"
                raise ConfigError(
                    f"task.{key} has no effect here",
                    where=f"task.{key}",
                    expected=needed,
                    fix=f"set it, or remove {key}",
                )

    @property
    def best_metric(self) -> str:
        return "f1_micro" if self.multi_label else "accuracy"

    @property
    def metric_names(self) -> tuple[str, ...]:  # type: ignore[override]
        if self.multi_label:
            return ("f1_micro", "f1_macro", "precision_micro", "recall_micro", "subset_accuracy")
        return ("accuracy", "f1_macro", "f1_weighted", "precision_macro", "recall_macro")

    # -- learning the label table ------------------------------------------------------------------------------

    def fit(self, records: Sequence[Record]) -> None:
        """The label table (sorted, unless the options give it) and the class weights, from the training records."""
        counts = Counter(label for record in records for label in self.labels_of(record))
        if not self.labels:
            self._set_labels(sorted(counts))
        if len(counts) < 2 and not (self.multi_label and counts):
            only = next(iter(counts), None)
            raise DataError(
                f"all {len(records)} training records have the label {only!r}" if only else "no record has a label",
                where=records[0].file if records else "",
                expected="at least two classes",
                fix="check data.columns.label, and that the file is not sorted and cut",
            )
        self.class_weights = self._weights(counts)

    def _set_labels(self, labels: Sequence[str]) -> None:
        self.labels = [str(label) for label in labels]
        double = [label for label, n in Counter(self.labels).items() if n > 1]
        if double:
            raise ConfigError(f"the label {double[0]!r} is listed twice", where="task.labels", fix="remove one")
        self._ids = {label: i for i, label in enumerate(self.labels)}
        start = self.options.threshold if self.options.threshold is not None else 0.5
        self.thresholds = [start] * len(self.labels)

    def _weights(self, counts: Counter[str]) -> list[float] | None:
        wanted = self.options.class_weights
        if wanted is None:
            return None
        if wanted == "balanced":
            total = sum(counts.values())
            return [total / (len(self.labels) * counts[label]) if counts[label] else 1.0 for label in self.labels]
        for label in wanted:
            if label not in self._ids:
                raise unknown_name("label", label, self.labels, where="task.class_weights")
        weights = [float(wanted.get(label, 1.0)) for label in self.labels]
        if not any(weights):
            raise ConfigError(
                "all labels have the weight 0", where="task.class_weights", expected="one above 0", fix="raise one"
            )
        return weights

    @property
    def label_required(self) -> bool:
        """Among several labels a text may have none: an empty cell is an answer."""
        return not self.multi_label

    def label_names(self) -> list[str]:
        return self.labels

    def labels_of(self, record: Record) -> list[str]:
        value = record.get("label")
        if value is None:
            return []
        if self.multi_label:
            return [str(item) for item in value] if isinstance(value, list | tuple) else _split_labels(str(value))
        return [_one_label(value, record)]

    # -- records to batches ------------------------------------------------------------------------------------

    def encode_many(self, records: Sequence[Record], *, start: int = 0) -> list[list[Example]]:
        texts = [need_text(record, "text") for record in records]
        pairs = [need_text(record, "text_pair") if self.takes_pair(record) else None for record in records]
        encoded = self.text_encoder(texts, pairs if any(pair is not None for pair in pairs) else None)
        return [
            self._examples(record, item, start + i)
            for i, (record, item) in enumerate(zip(records, encoded, strict=True))
        ]

    def takes_pair(self, record: Record) -> bool:
        """Whether the record is read as two texts: always in tasks of pairs, else if it has a second one."""
        return self.kind == "pair" or record.get("text_pair") is not None

    def _examples(self, record: Record, encoded: Any, index: int) -> list[Example]:
        target = self._target(record)
        return [
            Example(
                input_ids=window.input_ids,
                token_type_ids=window.token_type_ids,
                offsets=window.offsets,
                record=index,
                target=target,
                window=i,
                weight=1 / len(encoded.windows),
                tokens_lost=encoded.tokens_lost if i == 0 else 0,
            )
            for i, window in enumerate(encoded.windows)
        ]

    def _target(self, record: Record) -> Any:
        if record.get("label") is None and not self.multi_label:
            return None
        for label in (labels := self.labels_of(record)):
            if label not in self._ids:
                raise unknown_label(label, self.labels, where=record.where)
        ids = [self._ids[label] for label in labels]
        return ids if self.multi_label else ids[0]

    def targets(self, examples: Sequence[Example], length: int) -> dict[str, np.ndarray]:
        """labels int64 [B], or of several labels fp32 [B, C] of 0 and 1; weights fp32 [B], 1 / windows of the text."""
        weights = np.array([e.weight for e in examples], dtype=np.float32)
        if not self.multi_label:
            return {"labels": np.array([e.target for e in examples], dtype=np.int64), "weights": weights}
        hot = np.zeros((len(examples), len(self.labels)), dtype=np.float32)
        for row, example in zip(hot, examples, strict=True):
            row[example.target] = 1.0
        return {"labels": hot, "weights": weights}

    # -- model outputs to answers ------------------------------------------------------------------------------

    def head(self) -> HeadSpec:
        """`linear` is Hugging Face's own head unless a pooling is asked for; `cosine` compares with class vectors."""
        num_labels, pooling = len(self.labels), self.options.pooling
        dropout = {} if self.options.dropout is None else {"dropout": self.options.dropout}
        if self.options.head == "cosine":
            options: dict[str, Any] = {"pooling": pooling or "mean", **dropout}
            if self.options.scale is not None:
                options["scale"] = self.options.scale
            module = "flagai.models.heads:Cosine"
            return HeadSpec(body="encoder", num_labels=num_labels, module=module, options=options)
        if pooling is not None:
            module = "flagai.models.heads:PooledLinear"
            options = {"pooling": pooling, **dropout}
            return HeadSpec(body="encoder", num_labels=num_labels, module=module, options=options)
        return HeadSpec(body="sequence-classification", num_labels=num_labels, dropout=self.options.dropout)

    def start(self, model: Any, examples: Sequence[Example], run: Runner) -> None:
        """A cosine head starts at the class means of the frozen encoder: better than random, and in one pass."""
        if self.options.head != "cosine" or self.multi_label:
            return
        from flagai.models.heads import start_from_class_means

        rows = run(examples, ("embedding",))
        embeddings = np.stack([row["embedding"] for row in rows])
        start_from_class_means(model.head, embeddings, np.array([e.target for e in examples]))

    def loss(
        self, outputs: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy, or binary cross entropy averaged over the labels; weighted by class and by window.

        The count is the sum of the weights, so that the quotient is the weighted mean that torch computes.
        """
        import torch
        from torch.nn import functional

        logits, labels, weights = outputs["logits"].float(), batch["labels"], batch["weights"]
        classes = torch.tensor(self.class_weights, device=logits.device) if self.class_weights else None
        if self.multi_label:
            each = functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=classes, reduction="none")
            return (each.mean(dim=1) * weights).sum(), weights.sum()
        # torch itself weighs the share that smoothing gives to each label; it cannot be multiplied on afterwards.
        smoothing = self.options.label_smoothing
        each = functional.cross_entropy(logits, labels, weight=classes, reduction="none", label_smoothing=smoothing)
        count = weights if classes is None else weights * classes[labels]
        return (each * weights).sum(), count.sum()

    def decode(self, rows: Sequence[Arrays], examples: Sequence[Example], record: Record) -> Label | Labels:
        """From logits [C] of each window: the mean of their probabilities, and the answer by it."""
        activate = sigmoid if self.multi_label else softmax
        scores = np.mean([activate(np.asarray(row["logits"], dtype=np.float64)) for row in rows], axis=0)
        table = {label: float(score) for label, score in zip(self.labels, scores, strict=True)}
        if self.multi_label:
            return self._above_threshold(table)
        best = self.labels[int(np.argmax(scores))]
        top = sorted(table, key=table.__getitem__, reverse=True)[:_TOP_LABELS]
        return Label(best, table[best], {label: table[label] for label in top})

    def gold(self, record: Record) -> Any:
        labels = self.labels_of(record)
        return tuple(labels) if self.multi_label else labels[0]

    def metrics(self, results: Sequence[Any], golds: Sequence[Any]) -> dict[str, float]:
        from flagai.measure.classification import classification_metrics
        from flagai.measure.multi_label import multi_label_metrics

        if self.multi_label:
            return multi_label_metrics(golds, [result.labels for result in results], self.labels)
        return classification_metrics(golds, [result.label for result in results], self.labels)

    def describe(self, results: Sequence[Any], golds: Sequence[Any], records: Sequence[Record]) -> dict[str, Any]:
        from flagai.tasks.describe import describe_labels, describe_multi_label

        if self.multi_label:
            return describe_multi_label(results, golds, records, self.labels)
        return describe_labels(results, golds, records, self.labels)

    def tune(self, results: Sequence[Any], golds: Sequence[Any]) -> Sequence[Any]:
        """Multi-label: the threshold of each label that gives the best F1 on the evaluation data."""
        if not self.multi_label or self.options.threshold is not None or not results:
            return results
        from flagai.measure.multi_label import best_thresholds

        gold = np.array([[label in set(g) for label in self.labels] for g in golds])
        scores = np.array([[r.scores[label] for label in self.labels] for r in results])
        self.thresholds = [float(t) for t in best_thresholds(gold, scores)]
        return [self._above_threshold(r.scores) for r in results]

    def _above_threshold(self, table: Mapping[str, float]) -> Labels:
        reached = zip(self.labels, self.thresholds, strict=True)
        return Labels(tuple(label for label, threshold in reached if table[label] >= threshold), table)

    def state(self) -> dict[str, Any]:
        return {"labels": self.labels, "class_weights": self.class_weights, "thresholds": self.thresholds}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._set_labels(state["labels"])
        self.class_weights = state["class_weights"]
        self.thresholds = list(state["thresholds"])


def _one_label(value: Any, record: Record) -> str:
    if isinstance(value, bool):
        return str(value).lower()  # as JSON and YAML write it, and as `task.labels` reads it
    if isinstance(value, str | int):
        return str(value)
    raise DataError(
        f"the label is {value!r}",
        where=record.where,
        expected="one label, as text or a whole number",
        fix="task.multi_label: true takes lists; semantic-matching with task.regression: true takes numbers",
    )


def _split_labels(value: str) -> list[str]:
    """Labels of one cell: `a|b`, `a;b` or `a,b`; an empty cell has none."""
    for separator in "|;,":
        if separator in value:
            return [part.strip() for part in value.split(separator) if part.strip()]
    return [value.strip()] if value.strip() else []
