"""Whether a file holds sources and what is to be written for them, and which task that is. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from flagai.data.readers.columns import guess_columns, names_a_target
from flagai.data.records import Table

_TASKS: Final = {
    "title-generation": ("title", "headline", "标题"),
    "summarization": ("summary", "summaries", "highlights", "abstractive", "tldr", "摘要"),
    "question-generation": ("question", "问题"),
    "couplet": ("下联", "second"),
}
_DIFFERENT: Final = 0.8
"""share of different values from which a column holds texts that were written, not labels that return"""


def target_columns(table: Table) -> dict[str, str] | None:
    """The columns of source and target where a file is made of these, else None."""
    if table.sentences:
        return None
    rows = table.first_rows()
    columns = guess_columns(table.header, rows, "target")
    label = columns.get("label")
    if "text" not in columns or label is None:
        return None
    if table.form == "parallel" or (names_a_target(label) and _differ([row.get(label) for row in rows])):
        return columns
    return None


def _differ(values: Sequence[Any]) -> bool:
    """Whether the values are texts that hardly return; a list of strings is several of them."""
    texts = [value[0] if isinstance(value, list) and value else value for value in values]
    return all(isinstance(text, str) for text in texts) and len(set(texts)) >= max(2.0, _DIFFERENT * len(texts))


def target_task(columns: Mapping[str, str], header: Sequence[str]) -> str:
    """The task that the name of the target column tells; a question is asked for an answer that is there too."""
    label = columns["label"].lower()
    name = next((task for task, names in _TASKS.items() if label in names), "seq2seq")
    return name if name != "question-generation" or "answer" in header else "seq2seq"
