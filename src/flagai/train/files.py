"""Files that survive a crash, and what a crash left of folders. Knows no model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, TypeGuard

from flagai.data import whole
from flagai.data.whole import TEMPORARY, FullDisk
from flagai.errors import FlagaiError, OutputError

__all__ = [
    "cannot_write",
    "discard_unfinished",
    "is_system_error",
    "read_json",
    "recover",
    "sha256",
    "whole_folder",
    "write_json",
    "write_text",
]

_FULL: Final = FullDisk(
    expected="space for three times the size of the model",
    fix="free some space (or lower train.keep_last) and run the same command again: it continues",
)


def whole_folder(target: Path) -> AbstractContextManager[Path]:
    """`data.whole.whole_folder` for a folder of a run, which goes on once there is space again."""
    return whole.whole_folder(target, full=_FULL)


def cannot_write(error: OSError, target: Path) -> OutputError:
    """The error for a file or folder of a run that cannot be written."""
    return whole.cannot_write(error, target, full=_FULL)


def is_system_error(error: BaseException) -> TypeGuard[OSError]:
    """Whether it comes from the operating system and not from us, whose errors have a message already."""
    return isinstance(error, OSError) and not isinstance(error, FlagaiError)


def write_json(path: Path, value: Any) -> None:
    """Write JSON as `write_text` does."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 through a temporary file: readers never see half of it, and a full disk leaves the older one."""
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        temporary.write_text(text, encoding="utf-8")
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
