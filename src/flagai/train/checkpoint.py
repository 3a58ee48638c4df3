"""A run at step N on disk: a Hugging Face folder, `train_state/` and a manifest of hashes. Knows no loop.

No pickle: tensors are safetensors, everything else JSON. A folder without a manifest that fits is not a checkpoint.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from flagai.errors import CheckpointError
from flagai.train.files import read_json, sha256, whole_folder, write_json
from flagai.train.state import TrainState

MANIFEST = "MANIFEST.json"
VERSION = 1
_LAYOUT = ("torch", "threads", "machine", "device", "strategy", "precision")
"""the entries of a manifest that must be equal for a bit-equal continuation"""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint: its folder, the step it was taken at, and its manifest."""

    folder: Path
    step: int
    manifest: Mapping[str, Any]

    def differences(self, now: Mapping[str, Any]) -> list[str]:
        """What bit-equality depends on and is different now, in words."""
        there = self.manifest
        return [f"{key} {there.get(key)!r} there, {now[key]!r} now" for key in _LAYOUT if there.get(key) != now[key]]


def save(
    folder: Path,
    *,
    save_model: Callable[[Path], None],
    strategy_state: Mapping[str, Any],
    state: TrainState,
    extra: Mapping[str, Any],
) -> None:
    """Write one checkpoint, whole or not at all.

    Args:
        save_model: writes weights, config, tokenizer and task into a folder.
        strategy_state: `Strategy.state()`.
        extra: what must be equal for a bit-equal continuation (data hash, layout), kept in the manifest.
    """
    with whole_folder(folder) as temporary:
        save_model(temporary)
        inner = temporary / "train_state"
        inner.mkdir()
        save_file(
            {k: v.contiguous().cpu() for k, v in strategy_state["optimizer"].items()}, inner / "optimizer.safetensors"
        )
        save_file(dict(strategy_state["random"]), inner / "random.safetensors")
        write_json(inner / "state.json", {"train": state.to_json(), "scaler": strategy_state["scaler"]})
        write_json(temporary / MANIFEST, _manifest(temporary, state.step, extra))


def load(checkpoint: Checkpoint) -> tuple[dict[str, Any], TrainState]:
    """(strategy state for `Strategy.load_state`, train state) of a checkpoint that `newest` found complete."""
    inner = checkpoint.folder / "train_state"
    values = read_json(inner / "state.json")
    strategy_state = {
        "optimizer": load_file(inner / "optimizer.safetensors"),
        "random": load_file(inner / "random.safetensors"),
        "scaler": values["scaler"],
    }
    return strategy_state, TrainState.from_json(values["train"])


def newest(root: Path, tell: Callable[[str], None]) -> Checkpoint | None:
    """The newest complete checkpoint under `root`; `tell` hears which newer ones were skipped and why."""
    for step, folder in sorted(_numbered(root), reverse=True):
        try:
            manifest = verify(folder)
        except CheckpointError as error:
            tell(f"skipped the checkpoint {folder.name}: {error.found}")
            continue
        return Checkpoint(folder, step, manifest)
    return None


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files all have their recorded size and hash, else CheckpointError."""
    try:
        manifest = read_json(folder / MANIFEST)
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except FileNotFoundError:
        raise CheckpointError("it has no manifest: writing it was cut short", where=str(folder)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"its manifest is damaged: {error!r}", where=str(folder)) from error
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{name} is missing", where=str(folder))
        if path.stat().st_size != expected[0] or sha256(path) != expected[1]:
            raise CheckpointError(f"{name} is not what was written", where=str(folder))
    return manifest


def keep_newest(root: Path, count: int, *, last: int) -> None:
    """Delete all but `count` checkpoints up to step `last`, which was just written.

    Later ones belong to a course that the run has left: it was continued from before them.
    """
    numbered = sorted(_numbered(root), reverse=True)
    left, ours = [item for item in numbered if item[0] > last], [item for item in numbered if item[0] <= last]
    for _, folder in [*left, *ours[count:]]:
        # Without its manifest a folder is no checkpoint: a crash half-way leaves nothing that looks complete.
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)


def layout() -> dict[str, Any]:
    """What this process adds to `_LAYOUT`; the strategy and its precision are the caller's to know."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}


def _numbered(root: Path) -> list[tuple[int, Path]]:
    if not root.is_dir():
        return []
    folders = [(p.name.removeprefix("step-"), p) for p in root.iterdir() if p.name.startswith("step-")]
    return [(int(number), path) for number, path in folders if number.isdigit()]


def _manifest(folder: Path, step: int, extra: Mapping[str, Any]) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "version": VERSION,
        "step": step,
        "files": {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in files},
        **layout(),
        **extra,
    }
