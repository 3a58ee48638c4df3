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
    kind: Literal["text", "pair", "entities", "target"] = "text"
    """how files are read, as the class says too"""
    regression: str = ""
    """the class instead of `target` when the option `regression` is set"""
    writes: bool = False
    """whether answers are written token by token, so that no token for padding is needed"""


_CLASSIFICATION = "flagai.tasks.classification:Classification"
_GENERATION = "flagai.tasks.generation:GenerationTask"
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
    "seq2seq": Row(_GENERATION, "a text → a text, by any model that writes", kind="target", writes=True),
    "title-generation": Row(_GENERATION, "a text → its title", kind="target", writes=True),
    "summarization": Row(_GENERATION, "a text → a shorter one", kind="target", writes=True),
    "couplet": Row(
        "flagai.tasks.verses:CoupletTask", "the first line of a couplet → the second", kind="target", writes=True
    ),
    "question-generation": Row(
        "flagai.tasks.questions:QuestionTask", "a text and an answer in it → the question", kind="target", writes=True
    ),
    "lm": Row(
        "flagai.tasks.writing:WritingTask", "a text → the same with its masks filled, or written on", writes=True
    ),
    "poetry": Row(
        "flagai.tasks.poetry:PoetryTask", "a title, a first line or a poem with gaps → a Chinese poem", writes=True
    ),
    "masklm": Row("flagai.tasks.masked:MaskedLM", "a text → the same with each mask filled by one token (BERT)"),
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


def make_task(
    options: TaskConfig, tokenizer: Any, *, max_length: int, stride: int | None = None, config: Any = None
) -> Task:
    """The task that `options.name` names, with the options its row fixes.

    Args:
        config: the model's Hugging Face configuration; tasks that write must know it (`Task.meet`). None for a task
            that is restored from what was saved.
    """
    row = find_row(options.name)
    name = options.name.lower().replace("_", "-")
    target = row.regression if options.regression and row.regression else row.target
    module, _, attribute = target.partition(":")
    cls = getattr(import_module(module), attribute)
    options = options.model_copy(update={**row.fixed, "name": name})
    task = cls(options, tokenizer, max_length=max_length, stride=stride)
    if config is not None:
        task.meet(config)
    return task
