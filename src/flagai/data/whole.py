"""Folders that are either whole or not there. Knows not what they hold."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flagai.errors import FlagaiError, OutputError

TEMPORARY: Final = ".writing-"
"""how the name of a folder begins that is not whole yet"""


@dataclass(frozen=True, kw_only=True)
class FullDisk:
    """What an error about a full disk says besides."""

    expected: str = "space for what is to be written"
    fix: str = "free some space, or choose another disk"


_FULL: Final = FullDisk()


@contextlib.contextmanager
def whole_folder(target: Path, *, mark: str = "", full: FullDisk = _FULL) -> Iterator[Path]:
    """Write into a temporary folder beside `target`, flush it and rename it: a crash leaves the old one or none.

    Args:
        mark: part of the temporary name, where several processes may write the same folder at once.
        full: what is said where the disk is full.

    Raises:
        OutputError: the disk is full or the folder cannot be written; the temporary folder is gone by then.
    """
    temporary = temporary_of(target, mark=mark)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        flush(temporary)
        put_in_place(temporary, target)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, FlagaiError):
            raise
        raise cannot_write(error, target, full=full) from error
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # safetensors reports a full disk with an error class of its own
        if isinstance(error, Exception) and "No space left" in str(error):
            raise cannot_write(OSError(errno.ENOSPC, "No space left on device"), target, full=full) from error
        raise


def cannot_write(error: OSError, target: Path, *, full: FullDisk = _FULL) -> OutputError:
    """The error for a file or folder that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError("the disk is full", where=str(target), expected=full.expected, fix=full.fix)
    return OutputError(
        f"it cannot be written: {error.strerror or error}",
        where=str(target),
        expected="a folder you may write to",
        fix="choose another output",
    )


def temporary_of(target: Path, *, mark: str = "") -> Path:
    """Where a folder is written before it has its name."""
    return target.parent / f"{TEMPORARY}{mark}{target.name}"


def put_in_place(temporary: Path, target: Path) -> None:
    """Rename, moving an older version aside first: a folder cannot be renamed over one that is not empty."""
    old = target.parent / f"{TEMPORARY}old-{target.name}"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(temporary, target)
    flush_names(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def flush(folder: Path) -> None:
    """Wait until all files below a folder, and their names, are on the disk."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            flush_names(path)
        else:
            flush_file(path)


def flush_file(path: Path) -> None:
    """Wait until the bytes of a file are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def flush_names(folder: Path) -> None:
    """Wait until what a folder lists is on the disk, where its file system can be asked to."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse to flush folders, and need no flush
            os.fsync(handle)
    finally:
        os.close(handle)
