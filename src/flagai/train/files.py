"""Files that survive a crash, and what a crash left of folders. Knows no model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, TypeGuard

from flagai.data.whole import TEMPORARY, cannot_write, whole_folder
from flagai.errors import FlagaiError

__all__ = [
    "cannot_write",
    "discard_unfinished",
    "is_system_error",
    "read_json",
    "recover",
    "sha256",
    "whole_folder",
    "write_json",
]


def is_system_error(error: BaseException) -> TypeGuard[OSError]:
    """Whether it comes from the operating system and not from us, whose errors have a message already."""
    return isinstance(error, OSError) and not isinstance(error, FlagaiError)


def write_json(path: Path, value: Any) -> None:
    """Write JSON through a temporary file, so that readers never see half of it."""
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        temporary.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(error, path) from error


def read_json(path: Path) -> Any:
    """The value of a UTF-8 JSON file. Raises OSError or ValueError as they come."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    """The hash of a file's bytes in hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recover(root: Path) -> None:
    """After a crash: a folder that was moved aside and not yet replaced comes back, half-written ones go."""
    for old in root.glob(f"**/{TEMPORARY}old-*"):
        target = old.with_name(old.name.removeprefix(f"{TEMPORARY}old-"))
        if not target.exists():
            os.replace(old, target)
    discard_unfinished(root)


def discard_unfinished(root: Path) -> None:
    """Delete what an interrupted writing left below `root`."""
    for path in list(root.glob(f"**/{TEMPORARY}*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
