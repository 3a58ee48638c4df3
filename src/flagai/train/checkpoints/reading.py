"""A run on a checkpoint's step again: every process reads what it holds, whoever wrote it. Knows no loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from flagai.errors import CheckpointError
from flagai.models.safetensors_boxes import Slot, read_box, slots_in
from flagai.models.safetensors_file import read_safetensors
from flagai.models.saved_form import KINDS, places
from flagai.parallel.company import company
from flagai.parallel.parts import Box
from flagai.parallel.strategy import Strategy
from flagai.train.checkpoints.arrangement import OPTIMIZER, STATE, inventory
from flagai.train.checkpoints.keeping import numbered
from flagai.train.checkpoints.manifest import MANIFEST, Checkpoint, read_manifest, verify
from flagai.train.files import read_json
from flagai.train.state import TrainState

Tell = Callable[[str], None]
_SHOWN = 6


class Tensors:
    """Files of tensors, open for reading parts of them; a context manager.

    Errors: `CheckpointError` for a damaged file.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._places = {name: (file, slot) for file in files for name, slot in slots_in(file).items()}
        self._handles: dict[Path, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __iter__(self) -> Any:
        return iter(self._places)

    def slot(self, name: str) -> Slot:
        """Shape and dtype of a tensor."""
        return self._places[name][1]

    def read(self, name: str, box: Box) -> Tensor:
        """The numbers of a box, in the dtype of the file."""
        file, slot = self._places[name]
        if file not in self._handles:
            self._handles[file] = os.open(file, os.O_RDONLY)
            self._stack.callback(os.close, self._handles[file])
        return read_box(self._handles[file], slot, box.offset, box.shape)


def newest(root: Path, tell: Tell) -> Checkpoint | None:
    """The newest complete checkpoint under `root`; collective: the first process looks, and all agree.

    Args:
        tell: hears, on the first process, which newer ones were skipped and why.

    Raises:
        CheckpointError: the first process sees a checkpoint that another one does not see.
    """
    all_of_us = company("reading")
    step = all_of_us.first(lambda: _newest_step(root, tell))
    if step is None:
        return None
    return all_of_us.together(lambda: _seen(root / f"step-{step}", step))[all_of_us.rank]


def refuse_damaged(root: Path) -> None:
    """Nothing where no checkpoint was ever completed under `root`; else starting anew would delete what is there.

    Raises:
        CheckpointError: there are checkpoints.
    """
    there = [folder.name for _, folder in sorted(numbered(root)) if (folder / MANIFEST).is_file()]
    if there:
        raise CheckpointError(
            f"no checkpoint of the unfinished run here can be used: {_some(there)}",
            where=str(root),
            expected="a whole checkpoint that this flagai can read",
            fix="see what is wrong by `flagai ckpt verify`, and mend or copy one; or start anew with --fresh",
        )


def _newest_step(root: Path, tell: Tell) -> int | None:
    for step, folder in sorted(numbered(root), reverse=True):
        try:
            verify(folder)
        except CheckpointError as error:
            tell(f"skipped the checkpoint {folder.name}: {error.found}")
            continue
        return step
    return None


def _seen(folder: Path, step: int) -> Checkpoint:
    try:
        return Checkpoint(folder, step, read_manifest(folder))
    except CheckpointError as error:
        raise CheckpointError(
            f"this process does not see the checkpoint that the first one found ({error.found})",
            where=str(folder),
            expected="one folder that all machines see under the same path",
            fix="put the output on a shared disk",
        ) from error


def load(checkpoint: Checkpoint, strategy: Strategy, tell: Tell = lambda _: None) -> TrainState:
    """Put weights, moments, random streams and loss scale of a checkpoint into a placed model; collective.

    Each process reads what it holds, in whatever layout the checkpoint was written. The base of adapters is not in
    it: the model must have it already. `strategy.optimizer` must have been called.

    Args:
        tell: hears, on the first process, of parameters that begin without the moments they might have had.

    Raises:
        CheckpointError: it is of another model, or does not fill this one; nothing was changed then.
    """
    folder, inner = checkpoint.folder, checkpoint.folder / STATE
    all_of_us = company("reading")
    known = inventory(strategy.parts, all_of_us)
    shapes = {name: shape for name, key, shape, _ in known if not key}
    values = all_of_us.together(lambda: read_json(inner / "state.json"))[all_of_us.rank]
    with _open(folder, KINDS) as weights, _open(inner, (OPTIMIZER,)) as moments:
        where = {name: place.name for name, place in places(strategy.model, shapes).items()}
        _check(weights, where, shapes, folder)
        entries = _entries(moments)
        if all_of_us.is_first:
            _tell_of_moments(entries, set(values.get("frozen", ())), strategy, tell)
        strategy.fill(lambda name, _, box: weights.read(where[name], box), where.keys())
        state = {"random": read_safetensors(inner / "random.safetensors"), "scaler": values["scaler"]}

        def read(name: str, key: str, box: Box) -> Tensor:
            return moments.read(f"{name}/{key}", box) if key else weights.read(where[name], box)

        strategy.load_state(state, entries, read)
    return TrainState.from_json(values["train"])


def _open(folder: Path, stems: Iterable[str]) -> Tensors:
    return Tensors(sorted(file for stem in stems for file in folder.glob(f"{stem}*.safetensors")))


def _entries(moments: Tensors) -> dict[str, dict[str, tuple[int, ...]]]:
    entries: dict[str, dict[str, tuple[int, ...]]] = {}
    for entry in moments:
        name, _, key = entry.rpartition("/")
        entries.setdefault(name, {})[key] = moments.slot(entry).shape
    return entries


def _check(weights: Tensors, where: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Every tensor of the model is in the checkpoint and the other way round, all of the same shapes."""
    expected = {file_name: shapes[name] for name, file_name in where.items()}
    missing = [name for name in expected if name not in weights]
    extra = [name for name in weights if name not in expected]
    wrong = [
        f"{name}: {list(weights.slot(name).shape)} there, {list(shape)} here"
        for name, shape in expected.items()
        if name in weights and weights.slot(name).shape != shape
    ]
    told = {
        "of {all} parameters would not be filled": missing,
        "tensors of the checkpoint have no place in the model": extra,
        "have another shape": wrong,
    }
    found = [f"{len(n)} {what.format(all=len(expected))}: {_some(n)}" for what, n in told.items() if n]
    if found:
        raise CheckpointError(
            f"the checkpoint is of another model: {'; '.join(found)}",
            where=str(folder),
            expected="the model that the run was begun with",
            fix="restore the settings of the section model, or start anew with --fresh",
        )


def _tell_of_moments(entries: Mapping[str, Any], frozen_then: set[str], strategy: Strategy, tell: Tell) -> None:
    trained = {name: p.requires_grad for name, p in strategy.model.named_parameters()}
    fresh = [name for name, trains in trained.items() if trains and name in frozen_then]
    idle = [name for name in entries if trained.get(name) is False]
    if fresh:
        tell(f"{len(fresh)} parameters were frozen and are trained now; their moments begin at zero: {_some(fresh)}")
    if idle:
        tell(f"the moments of {len(idle)} parameters are left behind, these are frozen now: {_some(idle)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
