"""What a report holds: the plain JSON dict that is saved as report.json and drawn as report.html. It draws nothing.

Only `title` is needed: every part may be missing, empty or null, and the page then goes without it. A new part of
that kind needs no new version: who does not know it draws the rest as before.
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
    """The file a split came from; `sha256` in hex, of the file as it lies on disk; `records` is their number."""

    file: str
    sha256: str
    records: int


class DataPart(TypedDict, total=False):
    """What the run read, by split ("train", "eval", "test"), and what the audit found in it."""

    splits: dict[str, SplitFile]
    audit: dict[str, Any]
    """`Audit.to_json()` of `data/findings.py`"""


class Curves(TypedDict, total=False):
    """The course of the run, a row for each logged step and each evaluation, in order."""

    train: list[dict[str, float | None]]
    """`{step, loss, learning_rate, grad_norm, tokens_per_second}` of every logged step"""
    eval: list[dict[str, float | None]]
    """`{step, <metric>: value}` of every evaluation; `loss` among them is drawn beside the training loss"""


class Baseline(TypedDict, total=False):
    """What a trivial or an older system reaches: its name in words, and metric → value on the last measured split."""

    name: str
    metrics: dict[str, float]


class Confusion(TypedDict):
    """The square matrix [C, C] of C labels, in the order of `labels`."""

    labels: list[str]
    matrix: list[list[int]]
    """counts, the row is the gold label, the column the predicted one"""


class LabelRow(TypedDict, total=False):
    """One label: shares in [0, 1], 0/0 counting as 0; `support` is the number of gold answers with it."""

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
    """One wrong answer beside the right one, with the text it was given for."""

    text: str
    text_pair: str | None
    gold: Answer
    predicted: Answer
    score: float | None
    """the model's confidence in its wrong answer, in [0, 1]"""
    where: str
    """file:line"""


class SampleRow(TypedDict, total=False):
    """One written answer beside its references; `scores` of this answer alone, in [0, 1]; `where` as file:line."""

    source: str
    references: list[str]
    predicted: str
    scores: dict[str, float]
    where: str


class Histogram(TypedDict):
    """How many lengths lie in each of B bins."""

    edges: list[int]
    """[B + 1]; a bin holds its lower edge and not its upper one"""
    counts: dict[str, list[int]]
    """name ("source"; "reference", "predicted") → [B]"""


class WritingPart(TypedDict, total=False):
    """Texts that the model wrote for the last measured split."""

    segmentation: str
    """how texts were cut for the metrics, in words"""
    samples: list[SampleRow]
    lengths: dict[str, Histogram]
    """"source" and "answer", in units of the segmentation"""
    empty: int
    """answers without text"""


class Speed(TypedDict, total=False):
    """Measured, so different each time; rates are per second of training or of prediction, loading left out."""

    seconds: float
    train_samples_per_second: float
    useful_tokens_per_second: float
    useful_token_share: float
    """in [0, 1]"""
    peak_memory_bytes: float
    predict_samples_per_second: float


class ModelInfo(TypedDict, total=False):
    """Numbers of parameters, and where the weights came from."""

    parameters: int
    trainable: int
    source: str
    """a hub id, which the model card names as its base, or other words"""
    weights_sha256: str
    licence: str


class Environment(TypedDict, total=False):
    """Versions and machine as `train/environment.py` finds them; no name of a user, host or path."""

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
    writing: WritingPart | None
    speed: Speed
    model_info: ModelInfo
    environment: Environment
