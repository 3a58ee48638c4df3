"""The tasks by name. A new task is a row here and, only where the behaviour is new, one small class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from flagai.errors import unknown_name

if TYPE_CHECKING:
    from flagai.config import TaskConfig
    from flagai.tasks.base import Task


@dataclass(frozen=True, slots=True)
class Row:
    """Where a task's class is, what it does, and the options its name fixes."""

    target: str
    summary: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["text", "pair", "entities"] = "text"
    """how files are read, as the class says too"""
    regression: str = ""
    """the class instead of `target` when the option `regression` is set"""


_CLASSIFICATION = "flagai.tasks.classification:Classification"
_LABELING = "flagai.tasks.labeling:Labeling"

TASKS: dict[str, Row] = {
    "classification": Row(_CLASSIFICATION, "a text (or a pair) → one label, or several"),
    "semantic-matching": Row(
        "flagai.tasks.matching:PairClassification",
        "two texts → a label, or with regression a number",
        kind="pair",
        regression="flagai.tasks.matching:PairRegression",
    ),
    "sequence-labeling": Row(_LABELING, "a text → labelled spans, a softmax a token", {"head": "softmax"}, "entities"),
    "sequence-labeling-crf": Row(_LABELING, "the same with a conditional random field", {"head": "crf"}, "entities"),
    "sequence-labeling-gp": Row(
        _LABELING, "the same with GlobalPointer: spans may nest", {"head": "global-pointer"}, "entities"
    ),
    "ner": Row(_LABELING, "named entities, a softmax a token", {"head": "softmax"}, "entities"),
    "ner-crf": Row(_LABELING, "named entities with a conditional random field", {"head": "crf"}, "entities"),
    "ner-gp": Row(
        _LABELING, "named entities with GlobalPointer: entities may nest", {"head": "global-pointer"}, "entities"
    ),
    "embedding": Row(
        "flagai.tasks.embedding:EmbeddingTask", "a text → a vector, trained by the similarity of pairs", kind="pair"
    ),
    "lm": Row("flagai.tasks.writing:WritingTask", "a text → the same with its masks filled, or written on (GLM)"),
    "poetry": Row("flagai.tasks.poetry:PoetryTask", "a title, a first line or a poem with gaps → a Chinese poem (GLM)"),
    "blank-infilling": Row(
        "flagai.tasks.pretraining:BlankInfilling", "pre-training: texts with blanks → what stood there (GLM)"
    ),
}


def find_row(name: str) -> Row:
    """The row of a task name. Raises UnknownNameError with the nearest matches."""
    row = TASKS.get(name.lower().replace("_", "-"))
    if row is None:
        raise unknown_name("task", name, TASKS, where="task.name")
    return row


def make_task(options: TaskConfig, tokenizer: Any, *, max_length: int, stride: int | None = None) -> Task:
    """The task that `options.name` names, with the options its row fixes."""
    row = find_row(options.name)
    name = options.name.lower().replace("_", "-")
    target = row.regression if options.regression and row.regression else row.target
    module, _, attribute = target.partition(":")
    cls = getattr(import_module(module), attribute)
    return cls(options.model_copy(update={**row.fixed, "name": name}), tokenizer, max_length=max_length, stride=stride)
