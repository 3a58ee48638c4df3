"""Folders that are either whole or not there, and files that survive a crash. Knows no model."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from flagai.errors import FlagaiError, OutputError

_TEMPORARY = ".writing-"


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Write into a temporary folder beside `target`, flush it and rename it: a crash leaves the old one or none.

    Raises:
        OutputError: the disk is full or the folder cannot be written; the temporary folder is gone by then.
    """
    temporary = target.parent / f"{_TEMPORARY}{target.name}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        _flush(temporary)
        _replace(temporary, target)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OutputError):
            raise
        raise cannot_write(error, target) from error
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # safetensors reports a full disk with an error class of its own
        if isinstance(error, Exception) and "No space left" in str(error):
            raise cannot_write(OSError(errno.ENOSPC, "No space left on device"), target) from error
        raise


def cannot_write(error: OSError, target: Path) -> OutputError:
    """The error for a file or folder that cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return OutputError(
        "the disk is full" if full else f"it cannot be written: {error.strerror or error}",
        where=str(target),
        expected="space for the model and, while training, three times its size"
        if full
        else "a folder you may write to",
        fix="free some space (or lower train.keep_last) and run the same command again: it continues"
        if full
        else "choose another output",
    )


def is_system_error(error: BaseException) -> TypeGuard[OSError]:
    """Whether it comes from the operating system and not from us, whose errors have a message already."""
    return isinstance(error, OSError) and not isinstance(error, FlagaiError)


def write_json(path: Path, value: Any) -> None:
    """Write JSON through a temporary file, so that readers never see half of it."""
    temporary = path.with_name(_TEMPORARY + path.name)
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
    for old in root.glob(f"**/{_TEMPORARY}old-*"):
        target = old.with_name(old.name.removeprefix(f"{_TEMPORARY}old-"))
        if not target.exists():
            os.replace(old, target)
    discard_unfinished(root)


def discard_unfinished(root: Path) -> None:
    """Delete what an interrupted writing left below `root`."""
    for path in list(root.glob(f"**/{_TEMPORARY}*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _replace(temporary: Path, target: Path) -> None:
    """Rename, moving an older version aside first: a folder cannot be renamed over one that is not empty."""
    old = target.parent / f"{_TEMPORARY}old-{target.name}"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(temporary, target)
    shutil.rmtree(old, ignore_errors=True)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
