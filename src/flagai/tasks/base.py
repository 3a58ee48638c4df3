"""What a task is: the meaning of records, of the model's outputs and of "right". Knows no trainer and no device.

Importing a task loads no torch: `encode`, `collate` and `decode` work on lists and NumPy arrays, so that training,
evaluation, prediction, a server and an exported model share them. Only `loss` and `start` touch tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from flagai.data.batching import pad
from flagai.data.example import Example
from flagai.errors import DataError
from flagai.tasks.encoding import TextEncoder

if TYPE_CHECKING:
    import torch

    from flagai.config import TaskConfig
    from flagai.data.record import Record

Arrays = Mapping[str, np.ndarray]
Runner = Callable[[Sequence[Example], Sequence[str]], list[dict[str, np.ndarray]]]
"""Runs the model: (examples, names of outputs) → one dict of arrays an example."""


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """Which head a model gets, in plain words; `models/build.py` executes it.

    `body` names the Hugging Face auto class: "sequence-classification", "token-classification", "encoder", …, or
    "generation": the class that writes, whichever it is for the model's family.
    `module` is the dotted string of our own head on top of it ("flagai.models.heads:Cosine"), "" for none.
    """

    body: str
    num_labels: int
    module: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    dropout: float | None = None
    """in front of a head of Hugging Face's own; None as the configuration says"""


class Task(ABC):
    """A task owns the meaning: fields, encoding, head, loss, decoding, metrics.

    Life: `fit(training records)` settles what the options leave open (the label table, class weights); from then on
    `encode`, `collate`, `loss`, `decode`, `gold`, `metrics`; after the last evaluation `tune`; `state` is what
    `task.json` keeps beside the options, and `restore` reads it back.

    Args:
        options: the `task` section of a run; an option that means nothing to the task is an error.
        tokenizer: a Hugging Face fast tokenizer.
        max_length, stride: see `TextEncoder`.
    """

    name: ClassVar[str]
    """the name in the table that fits when the options give none"""
    kind: ClassVar[Literal["text", "pair", "entities", "target"]]
    """how files are read: "text", "pair", "entities" or "target" (`data/records.py`)"""
    used_options: ClassVar[frozenset[str]]
    """the fields of `TaskConfig` that mean something to this task, beside `name`"""
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    """the model outputs that `decode` needs, with a batch dimension; cut to the length of each example"""
    token_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    """output → its axes, batch not counted, that run over tokens and are cut to the length of the example"""
    needs_offsets: ClassVar[bool] = False
    """whether `decode` needs to know where tokens stand in the text"""
    shared_outputs: ClassVar[tuple[str, ...]] = ()
    """model outputs without a batch dimension (a CRF's transitions), handed to `decode` as they are"""
    metric_names: ClassVar[tuple[str, ...]]
    """what `metrics` returns"""
    writes: ClassVar[bool] = False
    """whether the outputs that `decode` reads come from `generate`, not from one call of the model"""
    measured_by_loss: ClassVar[bool] = False
    """whether evaluation computes the loss and the perplexity alone, and answers nothing"""
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss", "mse", "mae"})
    from_corpus: ClassVar[bool] = False
    """whether the training data is a token corpus instead of labelled records"""
    pair_loss: ClassVar[bool] = False
    """whether the loss compares examples of one batch, so that accumulation changes it"""

    def __init__(self, options: TaskConfig, tokenizer: Any, *, max_length: int, stride: int | None = None) -> None:
        self.options = options
        self.tokenizer = tokenizer
        self.max_length, self.stride = max_length, stride
        self.may_cut = True
        """whether a text beyond `max_length` is cut; if not, it is an error (no `stride`, and no one asked to cut)"""
        # The audit needs offsets to count the tokens that windows share only once.
        offsets = self.needs_offsets or stride is not None
        self.text_encoder = TextEncoder(tokenizer, max_length=max_length, stride=stride, offsets=offsets)
        self.pad_id = tokenizer.pad_token_id or 0
        options.check_used(self.used_options)

    def meet(self, config: Any) -> None:  # noqa: B027 - most tasks treat all models alike
        """Learn what depends on the model, from its Hugging Face configuration; comes before `fit`.

        Raises:
            ModelError: no model of that configuration can learn the task.
        """

    def check_model(self, model: Any) -> None:  # noqa: B027 - most tasks take what `head` got them
        """Refuse a model that could be trained but not be measured, before it is. Raises ModelError."""

    @property
    @abstractmethod
    def best_metric(self) -> str:
        """The metric that chooses the best model unless the run says otherwise."""

    @abstractmethod
    def fit(self, records: Sequence[Record]) -> None:
        """Settle what the options leave open. Raises DataError for labels that cannot be learned from."""

    @abstractmethod
    def head(self) -> HeadSpec:
        """Which head a model for this task gets; `fit` or `restore` comes first."""

    @abstractmethod
    def encode_many(self, records: Sequence[Record], *, start: int = 0) -> list[list[Example]]:
        """The windows of each record; `Example.record` counts from `start`.

        Raises:
            DataError: a label the task does not know, naming file and line.
        """

    @abstractmethod
    def targets(self, examples: Sequence[Example], length: int) -> dict[str, np.ndarray]:
        """What the loss compares with, padded to `length` tokens. Only called when every example has a target."""

    @abstractmethod
    def loss(
        self, outputs: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(sum, count): the loop divides once, by the count over all micro-batches and ranks."""

    @abstractmethod
    def decode(self, rows: Sequence[Arrays], examples: Sequence[Example], record: Record) -> Any:
        """The result for one record from the outputs of its windows (same order)."""

    @abstractmethod
    def gold(self, record: Record) -> Any:
        """The record's own answer, in the form that `metrics` compares with a result."""

    @abstractmethod
    def metrics(self, results: Sequence[Any], golds: Sequence[Any]) -> dict[str, float]:
        """`metric_names` → value, from one result and one gold answer a record, in the same order."""

    @abstractmethod
    def describe(self, results: Sequence[Any], golds: Sequence[Any], records: Sequence[Record]) -> dict[str, Any]:
        """The task's part of the report: `intervals`, `confusion`, `per_label`, `errors` (see `report/schema.py`)."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What `fit` and `tune` settled, as JSON."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave; the task is then as after `fit` and `tune`."""

    @property
    def label_required(self) -> bool:
        """Whether a record without a label is an error where the task learns or is measured."""
        return True

    def label_names(self) -> list[str] | None:
        """The label table for the audit, None for tasks without one."""
        return None

    def model_labels(self) -> list[str] | None:
        """The names of the model's classes for `config.json`; other than the labels where a label has several tags."""
        return self.label_names()

    def labels_of(self, record: Record) -> list[str]:
        """The labels of a record as text, for counting."""
        return []

    def start(self, model: Any, examples: Sequence[Example], run: Runner) -> None:  # noqa: B027 - most tasks need none
        """Set a new head from the frozen body before training, where that helps. Never on a resumed run."""

    def tune(self, results: Sequence[Any], golds: Sequence[Any]) -> Sequence[Any]:
        """Settle what evaluation data decides (thresholds); returns the results as they are then."""
        return results

    def encode(self, record: Record, index: int = 0) -> list[Example]:
        """The windows of one record, see `encode_many`."""
        return self.encode_many([record], start=index)[0]

    def check_fits(self, examples: Sequence[Example], records: Sequence[Record], *, trained: bool = False) -> None:
        """Refuse to cut a text unless the run said so.

        Args:
            trained: whether the run is over, so that its settings can no longer be changed.

        Raises:
            DataError: a text is beyond the model, and neither `data.max_length` nor `data.stride` was set.
        """
        if self.may_cut:
            return
        for example in examples:
            if example.tokens_lost:
                raise DataError(
                    f"the text has {example.tokens_lost} tokens more than the model reads",
                    where=records[example.record].where,
                    expected=f"at most {self.max_length} tokens, special tokens counted",
                    fix=_advice(self.kind, trained),
                )

    def collate(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        """Examples → one padded batch: int64 [B, L] inputs, and the targets when every example has one."""
        length = max(map(len, examples))
        batch = {
            "input_ids": pad([e.input_ids for e in examples], self.pad_id, length=length),
            "attention_mask": pad([[1] * len(e) for e in examples], 0, length=length),
        }
        if examples[0].token_type_ids is not None:
            batch["token_type_ids"] = pad([e.token_type_ids or [] for e in examples], 0, length=length)
        if all(e.target is not None for e in examples):
            batch |= self.targets(examples, length)
        return batch

    def collate_training(self, examples: Sequence[Example], *, epoch: int, seed: int) -> dict[str, np.ndarray]:
        """The batch of a training step; other than `collate` where a task draws something anew in every epoch.

        What is drawn may depend on the arguments alone, so that a continued run sees what an undisturbed one sees.
        """
        return self.collate(examples)

    def generate(self, model: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """For a task that `writes`: the outputs for a batch, from as many calls of the model as an answer has tokens.

        Called by `Strategy.evaluate` on the model's device, without gradients; arrays with a batch dimension.
        """
        raise NotImplementedError(f"{type(self).__name__} does not write")

    def collect(self, outputs: Mapping[str, Any], batch: Arrays, count: int) -> Mapping[str, Any]:
        """What `decode` gets of a batch of `count` examples: the model's outputs, or what a task makes of them.

        For tasks whose outputs have no batch dimension, or are too large to be kept until they are decoded.
        """
        return outputs


def _advice(kind: str, trained: bool) -> str:
    way = (
        "data.max_length to cut pairs"
        if kind == "pair"
        else "data.stride to read in windows, or data.max_length to cut"
    )
    return f"shorten the text, or train with {way}" if trained else f"set {way}"


def need_text(record: Record, field_name: str) -> str:
    """The text of a field, or the error that names its place."""
    value = record.get(field_name)
    if isinstance(value, str):
        return value
    raise DataError(
        f"the field {field_name!r} is {value!r}"
        if field_name in record.fields
        else f"there is no field {field_name!r}",
        where=record.where,
        expected="a text",
        fix=f"set data.columns.{field_name} to the column that holds it",
    )
