"""task.json: a saved model carries its task, so that a folder is enough to predict. Knows no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flagai.config import TaskConfig
from flagai.errors import CheckpointError, ModelError
from flagai.tasks.base import Task
from flagai.tasks.table import make_task

FILE = "task.json"
VERSION = 1


def task_to_json(task: Task, fingerprint: str) -> dict[str, Any]:
    """What task.json holds.

    Args:
        fingerprint: of the tokenizer (`models.checkpoints.fingerprint`); another one would mean other inputs.
    """
    return {
        "version": VERSION,
        "options": task.options.model_dump(mode="json"),
        "max_length": task.max_length,
        "stride": task.stride,
        "may_cut": task.may_cut,
        "state": task.state(),
        "tokenizer": fingerprint,
    }


def read_task_json(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's task.json, None if there is none.

    Raises:
        CheckpointError: it is damaged, or of a newer version.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["version"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the file is damaged: {error}", where=str(path), expected="what flagai train wrote", fix="train it again"
        ) from error
    if version > VERSION:
        raise CheckpointError(
            f"the file has version {version}", where=str(path), expected=f"at most {VERSION}", fix="upgrade flagai"
        )
    return values


def task_from_json(values: dict[str, Any], tokenizer: Any, fingerprint: str, where: str) -> Task:
    """The task as it was saved.

    Raises:
        ModelError: the tokenizer is not the one the task was trained with.
        CheckpointError: the values are not those of a task.
    """
    if values["tokenizer"] != fingerprint:
        raise ModelError(
            "the tokenizer is not the one the model was trained with",
            where=where,
            expected=f"token ids with the fingerprint {values['tokenizer'][:12]}, found {fingerprint[:12]}",
            fix="restore tokenizer.json of the run's own folder",
        )
    try:
        options = TaskConfig.model_validate(values["options"])
        task = make_task(options, tokenizer, max_length=values["max_length"], stride=values["stride"])
        task.may_cut = values["may_cut"]
        task.restore(values["state"])
    except (ValidationError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the saved task is damaged: {error}", where=where, expected="what flagai train wrote", fix="train it again"
        ) from error
    return task
