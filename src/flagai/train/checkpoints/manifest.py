"""MANIFEST.json: what a checkpoint holds, hashed, and where it was made. Knows no model and no process but this one."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch

from flagai.errors import CheckpointError
from flagai.models.safetensors_file import safetensors_entries
from flagai.parallel import world
from flagai.train.files import read_json, sha256

MANIFEST: Final = "MANIFEST.json"
VERSION: Final = 2
_LAYOUT: Final = ("torch", "threads", "machine", "device", "strategy", "processes", "precision")
"""the entries of a manifest that must be equal for a bit-equal continuation"""
_BEFORE: Final = {"processes": 1}
"""what manifests of version 1 do not say"""
_PACKAGES: Final = ("flagai", "transformers", "safetensors", "numpy")
READERS: Final = 4
"""files that are hashed at the same time"""

Facts = Mapping[str, Any]
"""of one file: its bytes and sha256; its tensors: name → dtype and shape"""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint: its folder, the step it was taken at, and its manifest."""

    folder: Path
    step: int
    manifest: Mapping[str, Any]

    def differences(self, now: Mapping[str, Any]) -> list[str]:
        """What bit-equality depends on and is different now, in words."""
        there = {**_BEFORE, **self.manifest}
        return [
            f"{key} {there.get(key)!r} there, {now[key]!r} now"
            for key in _LAYOUT
            if key in now and there.get(key) != now[key]
        ]


def layout() -> dict[str, Any]:
    """What this process adds to a manifest of what bits depend on; strategy and precision are the caller's to know."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "processes": world.size(),
    }


def restore_threads(checkpoint: Checkpoint, tell: Callable[[str], None]) -> None:
    """Compute with as many threads as the run did before; where the machine has fewer cores, `tell` hears it."""
    there, now, cores = checkpoint.manifest.get("threads"), torch.get_num_threads(), os.cpu_count() or 1
    if not isinstance(there, int) or there == now:
        return
    if there > cores:
        tell(f"the run used {there} threads, and this machine has {cores} cores: it goes on with {now}")
        return
    torch.set_num_threads(there)
    tell(f"computing with {there} threads, as before (this process began with {now})")


def make_manifest(step: int, files: Mapping[str, Facts], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The content of MANIFEST.json."""
    return {
        "version": VERSION,
        "step": step,
        "files": {name: dict(files[name]) for name in sorted(files)},
        **layout(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        **extra,
    }


def facts(path: Path) -> Facts:
    """Bytes and hash of a file, and of one that holds tensors their dtypes and shapes."""
    found = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    if path.suffix != ".safetensors":
        return found
    entries = safetensors_entries(path).items()
    return found | {"tensors": {name: [dtype, *shape] for name, (shape, dtype) in entries}}


def all_facts(root: Path, names: list[str], readers: int = READERS) -> dict[str, Facts]:
    """Those of several files, so many at a time."""
    with ThreadPoolExecutor(readers) as pool:
        return dict(zip(names, pool.map(lambda name: facts(root / name), names), strict=True))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, with the form it must have. Errors: `CheckpointError`."""
    try:
        manifest = read_json(folder / MANIFEST)
        newer = manifest["version"] > VERSION
        _ = [(entry["bytes"], entry["sha256"]) for entry in manifest["files"].values()]
        if outside := [name for name in manifest["files"] if Path(name).is_absolute() or ".." in Path(name).parts]:
            raise ValueError(f"it names {outside[0]!r}, outside of the folder")
    except FileNotFoundError:
        raise CheckpointError("it has no manifest: writing it was cut short", where=str(folder)) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"its manifest is damaged: {error!r}", where=str(folder)) from error
    if newer:
        raise CheckpointError(
            f"it was written by a newer flagai (form {manifest['version']})",
            expected=f"form {VERSION} or older",
            fix="pip install --upgrade flagai",
            where=str(folder),
        )
    return manifest


def verify(folder: Path, *, hashes: bool = True) -> dict[str, Any]:
    """The manifest of a checkpoint whose files all have their recorded size and hash, else CheckpointError.

    Args:
        hashes: False: only names and sizes.
    """
    manifest = read_manifest(folder)
    files: dict[str, Facts] = manifest["files"]
    for name, expected in files.items():  # sizes first: they cost nothing
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{name} is missing", where=str(folder), fix="copy the whole folder again")
        if (there := path.stat().st_size) != expected["bytes"]:
            raise _other(folder, name, f"{there:,} bytes instead of {expected['bytes']:,}")
    if not hashes:
        return manifest
    with ThreadPoolExecutor(READERS) as pool:
        for name, found in zip(files, pool.map(partial(_hash, folder), files), strict=True):
            if found != files[name]["sha256"]:
                raise _other(folder, name, f"sha256 {found[:12]}… instead of {files[name]['sha256'][:12]}…")
    return manifest


def _hash(folder: Path, name: str) -> str:
    return sha256(folder / name)


def _other(folder: Path, name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{name} is not what was written: {what}",
        where=str(folder),
        expected="the bytes that the manifest names",
        fix="copy it again, or go on from another checkpoint (flagai ckpt ls)",
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
