"""What a report holds: the plain JSON dict that is saved as report.json and drawn as report.html. It draws nothing.

Only `title` is needed: every part may be missing, empty or null, and the page then goes without it.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypedDict

REPORT_VERSION: Final = 1


class Measured(TypedDict, total=False):
    """A metric and, where it was bootstrapped, the ends of its interval."""

    value: float
    low: float | None
    high: float | None


class SplitFile(TypedDict, total=False):
    file: str
    sha256: str
    records: int


class DataPart(TypedDict, total=False):
    splits: dict[str, SplitFile]
    audit: dict[str, Any]
    """`Audit.to_json()` of `data/findings.py`"""


class Curves(TypedDict, total=False):
    train: list[dict[str, float | None]]
    """`{step, loss, learning_rate, grad_norm, tokens_per_second}` of every logged step"""
    eval: list[dict[str, float | None]]
    """`{step, <metric>: value}` of every evaluation; `loss` among them is drawn beside the training loss"""


class Baseline(TypedDict, total=False):
    name: str
    metrics: dict[str, float]


class Confusion(TypedDict):
    labels: list[str]
    matrix: list[list[int]]
    """counts, the row is the gold label, the column the predicted one"""


class LabelRow(TypedDict, total=False):
    label: str
    precision: float
    recall: float
    f1: float
    support: int


class SpanPart(TypedDict):
    """Code points of the text, `end` exclusive."""

    start: int
    end: int
    label: str


Answer = str | float | list[str] | list[SpanPart] | None
"""one label; a number; labels; entities (drawn as marks in the text)"""


class ErrorRow(TypedDict, total=False):
    text: str
    text_pair: str | None
    gold: Answer
    predicted: Answer
    score: float | None
    """the model's confidence in its wrong answer, in [0, 1]"""
    where: str
    """file:line"""


class Speed(TypedDict, total=False):
    seconds: float
    train_samples_per_second: float
    useful_tokens_per_second: float
    useful_token_share: float
    """in [0, 1]"""
    peak_memory_bytes: float
    predict_samples_per_second: float


class ModelInfo(TypedDict, total=False):
    parameters: int
    trainable: int
    source: str
    """a hub id, which the model card names as its base, or other words"""
    weights_sha256: str
    licence: str


class Environment(TypedDict, total=False):
    flagai: str
    torch: str
    transformers: str
    python: str
    platform: str
    cpu: str
    device: str
    threads: int


class Report(TypedDict, total=False):
    """The whole report. `version` is REPORT_VERSION; a reader refuses a higher one than it knows."""

    version: int
    title: str
    task: str
    model: str
    language: Literal["en", "zh"]
    """of the headings"""
    created: str
    """ISO 8601"""
    command: str
    """the command that repeats the run"""
    status: str
    """"finished", "interrupted", "failed", …"""
    data: DataPart
    config: dict[str, Any]
    """run.yaml as resolved"""
    curves: Curves
    metrics: dict[str, dict[str, Measured]]
    """split → metric → value; the headline is `best_metric` of "test", else of the last split"""
    best_metric: str
    baseline: Baseline | None
    confusion: Confusion | None
    per_label: list[LabelRow]
    errors: list[ErrorRow]
    """most confident first"""
    speed: Speed
    model_info: ModelInfo
    environment: Environment
