"""RunConfig: everything a run.yaml, the command line or a Python call can set, each key described and checked.

It knows no task and no model by name (those tables lie further down) and opens no file but the run.yaml itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from flagai.config_base import Section
from flagai.config_errors import translate
from flagai.config_parallel import ParallelConfig
from flagai.config_sections import (
    DEFAULT_EVAL_FRACTION,
    AuditConfig,
    ColumnsConfig,
    DataConfig,
    LoraConfig,
    ModelConfig,
    TrainConfig,
)
from flagai.config_task import TaskConfig
from flagai.config_text import Document, apply_overrides, parse_yaml, to_yaml
from flagai.errors import ConfigError, MissingFileError

__all__ = [
    "DEFAULT_EVAL_FRACTION",
    "RESERVED",
    "AuditConfig",
    "ColumnsConfig",
    "DataConfig",
    "LoraConfig",
    "ModelConfig",
    "ParallelConfig",
    "RunConfig",
    "TaskConfig",
    "TrainConfig",
    "diff",
    "flatten",
    "json_schema",
    "load_config",
]

RESERVED: Final = {
    "prompt": "few-shot prompts come with the prompt-learning release",
    "compress": "distillation, pruning and quantisation come with the compression release",
}
_SHORTHAND: Final = {"model": "name", "task": "name"}


class RunConfig(Section):
    """One run: which model learns which task from which data, how, and where the results go.

    Raises:
        ConfigError: for whatever pydantic or a check between fields finds, with the key as the user typed it.
    """

    model: ModelConfig = Field(default=ModelConfig.model_construct(), description="the model: a name, or a mapping")
    task: TaskConfig = Field(description="the task: a name, or a mapping")
    data: DataConfig = Field(default=DataConfig(), description="files of examples and how to read them")
    train: TrainConfig = Field(default=TrainConfig(), description="the training loop")
    generate: dict[str, Any] = Field(
        default={},
        description="how answers are chosen, for tasks that write: options of Predictor.generate such as num_beams and "
        "max_new_tokens; evaluation uses them and the saved model keeps them",
    )
    parallel: ParallelConfig = Field(default=ParallelConfig(), description="how the model is spread over processes")
    output: str = Field(
        default="runs/run", min_length=1, description="folder of the run; the model lands in <output>/final"
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise translate(error, type(self)) from None

    @field_validator("model", "task", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _not_yet(cls, values: Any) -> Any:
        for key in RESERVED:
            if isinstance(values, Mapping) and key in values:
                raise ConfigError(
                    f"the section {key!r} is not available yet: {RESERVED[key]}",
                    expected="the sections model, task, data, train, generate, parallel, output",
                    fix=f"take {key} out",
                    where=key,
                )
        return values

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        for key in ("early_stopping", "best_metric"):
            if getattr(self.train, key) is not None and self.data.eval is None and self.data.eval_fraction == 0:
                raise ConfigError(
                    f"train.{key} is set, but nothing is evaluated (data.eval_fraction is 0)",
                    expected="data.eval, or a data.eval_fraction above 0",
                    fix=f"set data.eval, or take train.{key} out",
                    where=f"train.{key}",
                )
        return self

    def to_dict(self) -> dict[str, Any]:
        """All settings, defaults included, as plain JSON types."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """All settings, defaults included, in one fixed order; `load_config` reads the same config back."""
        return to_yaml(self.to_dict())


def load_config(source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """The settings of a run.yaml, or of a mapping of the same shape, with `overrides` set on top.

    Paths: a relative path in a run.yaml (`data.*`, `model.name`, `model.tokenizer`, `parallel.deepspeed`) means the
    file beside the run.yaml if there is one, else the one in the current folder. Paths in a mapping or an
    override are relative to the current folder. `output` always is.

    Args:
        source: path of a run.yaml, or a mapping.
        overrides: `a.b=c`, `--a.b=c`, or `--a.b` followed by `c`. Setting a section (`model=NAME`) replaces it whole.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: for text that is no YAML and settings that cannot be meant; says file, line and key.
    """
    document = Document(values=dict(source)) if isinstance(source, Mapping) else _read(Path(source))
    document = apply_overrides(document, overrides, _SHORTHAND)
    try:
        return RunConfig.__pydantic_validator__.validate_python(document.values, self_instance=_blank())
    except ValidationError as error:
        raise translate(error, RunConfig, document.where) from None


def _blank() -> RunConfig:
    # Validating into an instance by hand keeps pydantic's own error, which `load_config` gives file and line.
    return RunConfig.__new__(RunConfig)


def _read(path: Path) -> Document:
    if not path.is_file():
        raise MissingFileError(
            "there is no such file" if not path.is_dir() else "this is a folder",
            expected="a run.yaml",
            fix="check the path; `flagai init FILE` writes a run.yaml from your data",
            where=str(path),
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"byte {error.start} is no UTF-8", expected="UTF-8 text", fix="save the file as UTF-8", where=str(path)
        ) from None
    document = parse_yaml(text, str(path))
    return Document(values=_beside(document.values, path.parent), lines=document.lines, file=document.file)


def _beside(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values with every relative path that exists in `folder` made a path from the current folder."""
    keys = {"data": ("train", "eval", "test"), "model": ("name", "tokenizer"), "parallel": ("deepspeed",)}
    values = dict(values)
    for section, names in keys.items():
        inner = values.get(section)
        if isinstance(inner, str) and section in _SHORTHAND:
            values[section] = _moved(inner, folder)
        elif isinstance(inner, Mapping):
            values[section] = {key: _moved(value, folder) if key in names else value for key, value in inner.items()}
    mixture = values["data"].get("mixture") if isinstance(values.get("data"), Mapping) else None
    if isinstance(mixture, Mapping):
        moved = {_moved(path, folder): weight for path, weight in mixture.items()}
        values["data"] = {**values["data"], "mixture": moved}
    return values


def _moved(value: Any, folder: Path) -> Any:
    if not isinstance(value, str) or not value or Path(value).is_absolute():
        return value
    try:
        return str(folder / value) if (folder / value).exists() else value
    except (OSError, ValueError):  # a text that cannot be a path is looked at later, by whoever needs it
        return value


def flatten(config: RunConfig) -> dict[str, Any]:
    """All settings as `section.key` → value; lists and free mappings (`model.config`) stay whole."""
    return dict(_leaves(config, ""))


def _leaves(section: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def diff(old: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    """What changed, as (key, old value, new value) in the order of the settings; a missing section counts as null."""
    before, after = flatten(old), flatten(new)
    keys = [*before, *(key for key in after if key not in before)]
    return [(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


def json_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a run.yaml, for editors."""
    schema = RunConfig.model_json_schema()
    for key in _SHORTHAND:
        whole = schema["properties"][key]
        reference = {"$ref": whole.pop("$ref")}
        schema["properties"][key] = {**whole, "anyOf": [{"type": "string"}, reference]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "flagai run.yaml"}
