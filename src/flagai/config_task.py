"""The section `task` of a run.yaml: the options of all tasks. It knows neither tasks nor models."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field, model_validator

from flagai.config_base import Section, Text
from flagai.errors import ConfigError


class TaskConfig(Section):
    """What is learned. The options of all tasks stand here; a task refuses those that mean nothing to it."""

    name: str = Field(description="a name of `flagai tasks`")
    labels: tuple[Text, ...] | None = Field(
        default=None, description="all labels, in order; null: those of the training data"
    )
    multi_label: bool = Field(default=False, description="whether a text may have several labels, or none")
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        default=None,
        description="weight of each label in the loss; balanced: inverse to its frequency; null: all equal",
    )
    head: Literal["auto", "linear", "cosine", "softmax", "crf", "global-pointer"] = Field(
        default="auto", description="the layer that turns vectors into scores; auto: what suits the task"
    )
    pooling: Literal["mean", "cls"] | None = Field(
        default=None, description="how token vectors become a text vector for this task; null: as model.pooling"
    )
    scale: float | None = Field(
        default=None, gt=0, description="factor on cosines in head and loss; null: the task's default"
    )
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="dropout in front of the head; null: as the model's configuration says"
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of the target spread evenly over all labels"
    )
    threshold: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="probability from which a label of several counts; null: best on the eval data",
    )
    regression: bool = Field(
        default=False, description="whether the label of a pair is a number (similarity), not a class"
    )
    score_range: tuple[float, float] | None = Field(
        default=None, description="lowest and highest similarity in the data; null: those of the training data"
    )
    loss: Literal["auto", "cosine", "cosent"] = Field(
        default="auto", description="loss of text vectors; auto: the task's default"
    )
    normalize: bool | None = Field(
        default=None, description="whether text vectors get length one; null: what suits the task"
    )
    inner_dim: int = Field(default=64, gt=0, description="size of the vectors of a GlobalPointer head")
    blanks: str | dict[str, bool | int | float | str | None] | None = Field(
        default=None,
        description="which blanks pre-training makes: the name of a published run (base, large-chinese, 10b, …), or "
        "settings such as bert_prob, gap_sentence_prob, mask_ratio (`like: name` starts from that run's); "
        "null: as large-chinese where the vocabulary has [gMASK], else as base",
    )
    template: str | None = Field(
        default=None,
        description="text around the source of a task that writes, with {source} in it and, where wanted, {column} for "
        "other columns; for a GLM with the mask where the answer belongs; null: what suits the model",
    )
    truncation: Literal["tail", "head", "middle"] = Field(
        default="tail", description="which part of a source longer than data.max_length is cut away; targets never are"
    )

    @model_validator(mode="after")
    def _check(self) -> TaskConfig:
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
            raise ConfigError(
                f"the labels {', '.join(map(repr, twice))} stand there twice",
                expected="each label once",
                fix="remove the repeated ones",
                where="task.labels",
            )
        if self.score_range is not None and self.score_range[0] >= self.score_range[1]:
            raise ConfigError(
                f"found {list(self.score_range)}",
                expected="[lowest, highest] with lowest < highest",
                fix="swap or correct the two",
                where="task.score_range",
            )
        return self

    def check_used(self, used: Collection[str]) -> None:
        """Refuse options that differ from their defaults but mean nothing to the task.

        Args:
            used: the options that the task reads.

        Raises:
            ConfigError: names the first such option and those that exist.
        """
        fields = type(self).model_fields
        changed = [key for key in sorted(fields) if key != "name" and getattr(self, key) != fields[key].default]
        for key in changed:
            if key not in used:
                raise ConfigError(
                    f"task.{key} means nothing to the task {self.name!r}",
                    expected=f"any of: {', '.join(sorted(used)) or 'none'}",
                    fix="take it out",
                    where=f"task.{key}",
                )
