"""A checkpoint from empty folder to last name: every process writes its boxes, the first one ends it.

It knows files and meetings; what is saved when, and what is kept, is decided elsewhere.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flagai.data.whole import flush, flush_file, put_in_place, temporary_of
from flagai.models.safetensors_boxes import write_box
from flagai.models.safetensors_file import write_safetensors
from flagai.parallel.company import Company
from flagai.parallel.parts import Part
from flagai.parallel.strategy import Strategy
from flagai.train.checkpoints.arrangement import STATE, Arrangement, inventory
from flagai.train.checkpoints.manifest import MANIFEST, READERS, Facts, all_facts, make_manifest
from flagai.train.files import cannot_write, is_system_error, write_json

Describe = Callable[[Path], None]
"""writes what a folder holds beside tensors; called by the first process"""
End = Callable[[Path, Mapping[str, Facts]], None]
"""(folder, facts of its files) → writes the last file"""


class Writing:
    """One folder that all processes write together; nothing of it is seen until `finish`.

    Args:
        target: the folder as it will be called.
        company: who writes; the same thread must use it from beginning to end, or hand it over.

    Raises:
        OutputError: it cannot be written, or the disk is full; OtherRankError: another process could not. The
            half-written folder is gone then, and what was there before is not touched.
    """

    def __init__(self, target: Path, company: Company) -> None:
        self.target, self._company = target, company
        self.temporary = temporary_of(target)
        self._arranged = Arrangement({}, {}, {})
        self._written: set[str] = set()

    def begin(self, parts: Callable[[], Iterable[Part]], model: Any, describe: Describe) -> Arrangement:
        """Agree on the files, make them of their final sizes, and write what stands beside tensors."""
        self._arranged = Arrangement.of(inventory(parts, self._company), model)
        self._step(lambda: self._make(describe), first=True)
        return self._arranged

    def write(self, parts: Iterable[Part]) -> None:
        """Put the boxes of this process into the files."""
        self._step(lambda: self._write(parts))

    def finish(self, end: End | None = None, *, readers: int = READERS) -> None:
        """Wait until the files are on the disk, hash them meanwhile, and give the folder its name.

        Args:
            end: called by the first process with the folder and the facts of all files, before it gets its name;
                where there is no end, nothing is hashed.
            readers: files of this process that are hashed at the same time.
        """
        share = self._arranged.shares(self._company.size)[self._company.rank] if end is not None else []

        def settle() -> dict[str, Facts]:
            with ThreadPoolExecutor(1) as pool:
                flushed = pool.submit(lambda: [flush_file(self.temporary / name) for name in sorted(self._written)])
                found = all_facts(self.temporary, share, readers)
                flushed.result()
            return found

        told = self._step(settle)
        self._step(lambda: self._close(end, {name: f for facts in told for name, f in facts.items()}), first=True)

    def _make(self, describe: Describe) -> None:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir()
        describe(self.temporary)
        self._arranged.reserve(self.temporary)

    def _write(self, parts: Iterable[Part]) -> None:
        handles: dict[str, int] = {}
        try:
            for part in parts:
                if (place := self._arranged.slots.get((part.name, part.key))) is None:
                    continue
                file, slot = place
                if file not in handles:
                    handles[file] = os.open(self.temporary / file, os.O_WRONLY)
                write_box(handles[file], slot, part.box.offset, part.tensor)
            self._written = set(handles)
        finally:
            for handle in handles.values():
                os.close(handle)

    def _close(self, end: End | None, known: Mapping[str, Facts]) -> None:
        if end is not None:
            others = [path for path in self.temporary.rglob("*") if path.is_file()]
            names = [str(path.relative_to(self.temporary)) for path in others]
            rest = all_facts(self.temporary, [name for name in names if name not in known], 1)
            end(self.temporary, {**known, **rest})
        flush(self.temporary)
        put_in_place(self.temporary, self.target)

    def _step(self, work: Callable[[], Any], *, first: bool = False) -> list[Any]:
        """Part of the work on all processes, or on the first; after an error on any of them nothing is left."""

        def guarded() -> Any:
            try:
                return work()
            except OSError as error:
                raise cannot_write(error, self.target) if is_system_error(error) else error from error

        try:
            return self._company.together((lambda: guarded() if self._company.is_first else None) if first else guarded)
        except BaseException:
            if self._company.is_first:
                shutil.rmtree(self.temporary, ignore_errors=True)
            raise


def write_state(folder: Path, random: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """What is small in a checkpoint: random streams and plain values."""
    inner = folder / STATE
    inner.mkdir(exist_ok=True)
    entries = {name: (tuple(stream.shape), stream.dtype) for name, stream in random.items()}
    write_safetensors(inner / "random.safetensors", entries, random.values())
    write_json(inner / "state.json", dict(values))


def write_manifest(step: int, extra: Mapping[str, Any]) -> End:
    """The end of a checkpoint for `Writing.finish`."""
    return lambda folder, files: write_json(folder / MANIFEST, make_manifest(step, files, extra))


def write_model(strategy: Strategy, folder: Path, describe: Describe, *, company: Company) -> None:
    """The weights of a placed model as a whole model folder; collective."""
    writing = Writing(folder, company)

    def weights() -> Iterable[Part]:
        return (part for part in strategy.parts() if not part.key)

    writing.begin(weights, strategy.model, describe)
    writing.write(weights())
    writing.finish()
