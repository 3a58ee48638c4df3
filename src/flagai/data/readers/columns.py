"""Which column is the text, the second text and the label: guessed from its name, or as told. Knows no file format."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from flagai.data.readers.spans import is_spans
from flagai.data.readers.tags import parse_tag
from flagai.errors import DataError

Kind = Literal["text", "pair", "entities", "target", "auto"]
""""target": a text and what is to be written for it"""

# Nearest meaning first. Names are compared in lower case with every other character than letters and digits removed.
_TEXT: Final = (
    *(
        "text",
        "sentence",
        "sentence1",
        "texta",
        "text1",
        "question1",
        "premise",
        "query",
        "question",
        "content",
        "review",
    ),
    *("utterance", "comment", "message", "tweet", "s1", "sent1", "sentencea", "reviewbody", "reviewtext", "document"),
    *("body", "input", "prompt", "title", "文本", "句子", "内容", "评论", "问题", "文本1", "句子1"),
)
_PAIR: Final = (
    *("textpair", "sentence2", "textb", "text2", "question2", "hypothesis", "s2", "sent2", "sentenceb"),
    *("文本2", "句子2"),
)
# Second texts only where a pair is asked for: beside a question they are often just another column.
_LOOSE_PAIR: Final = ("title", "passage", "document", "doc", "answer", "response", "context", "candidate", "reply")
_FIRST_OF_PAIR: Final = {
    **{"sentence2": "sentence1", "textb": "texta", "text2": "text1", "question2": "question1", "hypothesis": "premise"},
    **{"s2": "s1", "sent2": "sent1", "sentenceb": "sentencea", "文本2": "文本1", "句子2": "句子1"},
}
_LABEL: Final = (
    *(
        "label",
        "labels",
        "category",
        "intent",
        "class",
        "target",
        "sentiment",
        "goldlabel",
        "similarityscore",
        "similarity",
    ),
    *("score", "similar", "isduplicate", "emotion", "topic", "stars", "rating", "标签", "类别", "意图", "情感", "分数"),
)
_ENTITIES: Final = ("entities", "spans", "nertags", "tags", "label", "labels", "ner", "bio", "实体", "标签")
_TOKENS: Final = ("tokens", "words", "chars", "characters")
# Of what is written. The second lists hold names that mean one thing alone and another beside a partner: a `title` is a
# target beside a `content`, and a `question` beside a `context`.
_TARGET: Final = (
    *(
        "target",
        "targets",
        "tgt",
        "summary",
        "summaries",
        "highlights",
        "headline",
        "abstractive",
        "output",
        "response",
    ),
    *("completion", "reference", "label", "second", "out", "目标", "摘要", "标题", "下联", "输出"),
)
_LOOSE_TARGET: Final = ("title", "question", "answer", "reply", "tldr", "abstract", "keywords")
_SOURCE: Final = (
    *("source", "src", "document", "article", "dialogue", "dialog", "abst", "input", "first", "in", "原文", "正文"),
    *("上联", "输入"),
)
_NAMES: Final = frozenset((*_TEXT, *_PAIR, *_LABEL, *_ENTITIES, *_TOKENS))
_WRITTEN: Final = frozenset((*_TARGET, *_LOOSE_TARGET, *_SOURCE)) - {"in", "out", "first", "second"}
_NOT_WORD: Final = re.compile(r"[\W_]+")


def _plain(name: str) -> str:
    return _NOT_WORD.sub("", name.lower())


def is_known(name: str) -> bool:
    """Whether a column name is one that text, pair, label or entity columns commonly have."""
    return _plain(name) in _NAMES


def is_known_of_targets(name: str) -> bool:
    """The same where rows are known to be sources and targets."""
    return _plain(name) in _NAMES or _plain(name) in _WRITTEN


def names_a_target(name: str) -> bool:
    """Whether a column name is one that texts to be written commonly have."""
    return _plain(name) in _TARGET or _plain(name) in _LOOSE_TARGET


def guess_columns(
    header: Sequence[str], first_rows: Sequence[Mapping[str, Any]] = (), kind: Kind = "auto"
) -> dict[str, str]:
    """Canonical name → column, for those of `text`, `text_pair` and `label` that can be told.

    Names decide, never the look of the values, with two exceptions: a row's shape tells entities from classes, and of
    two columns the one that is not the label is the text.

    Args:
        header: the columns of the file.
        first_rows: some rows, as {column: value}.
        kind: what the records are to be; "auto" as `detect_kind` says.
    """
    kind = detect_kind(header, first_rows) if kind == "auto" else kind
    names = {_plain(name): name for name in reversed(header)}
    if kind == "entities":
        return _entity_columns(names, first_rows)
    if kind == "target":
        return _target_columns(names)
    pair = _first(names, _PAIR) or (_first(names, _LOOSE_PAIR) if kind == "pair" else None)
    partner = _FIRST_OF_PAIR.get(_plain(pair)) if pair else None
    text = names.get(partner or "") or _first(names, [name for name in _TEXT if names.get(name) != pair])
    label = _first(names, _LABEL)
    if text is None and label is not None and len(header) == 2:
        text = next(name for name in header if name != label)
    return _set(text=text, text_pair=pair if kind == "pair" else None, label=label)


def _target_columns(names: Mapping[str, str]) -> dict[str, str]:
    """What is read and what is written; a column with neither name is left where there are two."""
    label = _first(names, _TARGET) or _first(names, _LOOSE_TARGET)
    text = next(
        (
            names[name]
            for name in (*_SOURCE, "context", "content", *_TEXT, *_LOOSE_TARGET)
            if name in names and names[name] != label
        ),
        None,
    )
    others = [name for name in names.values() if name not in (text, label)]
    if len(names) == 2 and (text is None) != (label is None):
        text, label = text or others[0], label or others[0]
    return _set(text=text, label=label)


def _entity_columns(names: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    label = next((names[name] for name in _ENTITIES if name in names and _is_entity_column(names[name], rows)), None)
    by_token = _first(names, _TOKENS)
    text = _first(names, _TEXT)
    if by_token and (text is None or (label and _is_tags(_sample(label, rows)))):
        text = by_token
    return _set(text=text, label=label)


def _is_entity_column(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """A column that holds entities in the first rows, or of which they say nothing."""
    value = _sample(name, rows)
    return value is None or value == [] or is_spans(value) or _is_tags(value) or not isinstance(value, str)


def detect_kind(header: Sequence[str], first_rows: Sequence[Mapping[str, Any]] = ()) -> Kind:
    """ "entities" if a column holds offsets or tags, "pair" if one has a name of second texts, else "text"."""
    names = {_plain(name): name for name in header}
    for name in _ENTITIES:
        value = _sample(names[name], first_rows) if name in names else None
        if value is not None and (is_spans(value) or _is_tags(value)):
            return "entities"
    if "entities" in names and first_rows and any(isinstance(row.get(names["entities"]), list) for row in first_rows):
        return "entities"
    return "pair" if any(name in names for name in _PAIR) else "text"


def _sample(name: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    """The first value of a column that says something, None if there is none."""
    values = (row.get(name) for row in rows)
    return next((value for value in values if value is not None and value != [] and value != {}), None)


def _is_tags(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(tag, str) and parse_tag(tag) for tag in value)


def _first(names: Mapping[str, str], wanted: Iterable[str]) -> str | None:
    return next((names[name] for name in wanted if name in names), None)


def _set(**columns: str | None) -> dict[str, str]:
    return {name: column for name, column in columns.items() if column is not None}


def resolve_columns(
    header: Sequence[str], rows: Sequence[Mapping[str, Any]], kind: Kind, columns: Mapping[str, str], file: str
) -> dict[str, str]:
    """The columns as told, completed by the guess.

    Raises:
        DataError: a column that is told but not there, or no column for the text (of a pair: for the second text).
    """
    for name, column in columns.items():
        if column not in header:
            raise _missing(f"no column {column!r}, which data.columns.{name} names", header, column, file)
    taken = set(columns.values())
    guess = {name: column for name, column in guess_columns(header, rows, kind).items() if column not in taken}
    resolved = {**guess, **columns}
    needed = ("text", "text_pair") if kind == "pair" else ("text",)
    for name in needed:
        if name not in resolved:
            raise _missing(f"no column is known to be the {name}", header, name, file)
    return resolved


def _missing(found: str, header: Sequence[str], name: str, file: str) -> DataError:
    lower = {column.lower(): column for column in header}
    near = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.6)
    other = next((mark for mark in (";", "\t", "|") if len(header) == 1 and mark in header[0]), None)
    if other:
        fix = f"the cells are parted by {other!r}: save the file with commas, or with tabs as .tsv"
    elif near:
        fix = f"did you mean {lower[near[0]]!r}? Set data.columns"
    else:
        fix = "name the columns: data.columns: {text: …, label: …}"
    listed = ", ".join(map(repr, header[:20])) + (", …" if len(header) > 20 else "")
    return DataError(
        f"{found}; columns found: {listed}", expected="a column for each field that is needed", fix=fix, where=file
    )
