"""What a prediction is: small frozen results that serialise to one JSON everywhere. Knows no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Label:
    """One label of several and its probability; `scores` are those of the ten most probable labels, highest first."""

    label: str
    score: float
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Labels:
    """All labels whose probability reaches their threshold; `scores` are the probabilities of all labels."""

    labels: tuple[str, ...]
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Entity:
    """A span of the text as given: `text == whole[start:end]` in code points, `end` exclusive."""

    text: str
    label: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Similarity:
    """How alike two texts are, on the scale of the training labels."""

    score: float


@dataclass(frozen=True, slots=True)
class Embedding:
    """A text as a vector."""

    vector: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Writing:
    """A text with its blanks filled, or written on.

    `text` is the whole; `blanks` are the parts that were written, in order; `score` is how probable the model found
    them: the geometric mean of the probabilities of their tokens, ends counted, in (0, 1].
    """

    text: str
    blanks: tuple[str, ...]
    score: float


@dataclass(frozen=True, slots=True)
class Written:
    """A text that was written for another.

    `score` is how probable the model found it: the geometric mean of the probabilities of its tokens, the end counted,
    in (0, 1].
    """

    text: str
    score: float


def to_json(result: Any) -> Any:
    """The JSON form of a result or a list of results (entities): floats rounded to 6 digits."""
    if isinstance(result, list | tuple):
        return [to_json(item) for item in result]
    return _rounded(asdict(result))


def dumps(value: Any) -> str:
    """A value of `to_json` as one line of JSON, other scripts than Latin as they are."""
    return json.dumps(value, ensure_ascii=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
