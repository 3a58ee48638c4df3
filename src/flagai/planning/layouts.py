"""The ways in which a run may be spread over processes, each as settings of its own. Knows no bytes and no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from flagai.config import ParallelConfig, RunConfig
from flagai.errors import ConfigError
from flagai.parallel.axes import Sizes
from flagai.parallel.choose import sizes_of

_OURS: Final = ("ddp", "fsdp", "zero1", "zero2", "zero3")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way: settings, and how many processes they are for.

    Args:
        changes: what was set on top of the user's settings, as on a command line.
    """

    config: RunConfig
    processes: int
    changes: tuple[str, ...] = ()

    @property
    def parallel(self) -> ParallelConfig:
        """The section `parallel`."""
        return self.config.parallel

    @property
    def sizes(self) -> Sizes:
        """Processes along each axis. Raises ConfigError where they do not make up the number there is."""
        return Sizes() if self.processes == 1 else sizes_of(self.parallel, self.processes)

    @property
    def data(self) -> int:
        """Processes that see different examples."""
        sizes = self.sizes
        return sizes.replicate * sizes.shard

    @property
    def name(self) -> str:
        """In words: "fsdp 4", "ddp 2 × tensor 2"."""
        parallel, sizes = self.parallel, self.sizes
        if self.processes == 1:
            words = ["one process"]
        else:
            divided = {"tensor": sizes.tensor, "pipeline": sizes.pipeline, "context": sizes.context}
            words = [f"{parallel.strategy} {self.data}"] if self.data > 1 else []
            words += [f"{name} {count}" for name, count in divided.items() if count > 1]
        extra = [name for name in ("recompute", "offload", "sequence") if getattr(parallel, name)]
        return " × ".join(words) + "".join(f" + {name}" for name in extra)

    def key(self) -> str:
        """Equal for layouts that are the same run."""
        return f"{self.processes} {self.config.to_dict()}"


def changed(layout: Layout, settings: Mapping[str, Any], *, processes: int | None = None) -> Layout:
    """The layout with some settings (`section.key` → value) set. Raises ConfigError where they do not fit."""
    values = layout.config.to_dict()
    for name, value in settings.items():
        section, _, key = name.partition(".")
        values[section][key] = value
    before = layout.config.to_dict()
    said = [
        f"{name}={_word(value)}"
        for name, value in settings.items()
        if before[name.partition(".")[0]][name.partition(".")[2]] != value
    ]
    return Layout(
        config=RunConfig(**values),
        processes=layout.processes if processes is None else processes,
        changes=(*layout.changes, *said),
    )


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


SINGLE: Final[Mapping[str, Any]] = {
    "parallel.strategy": "single", "parallel.processes": None, "parallel.tensor": 1, "parallel.sequence": False,
    "parallel.pipeline": 1, "parallel.context": 1, "parallel.shard": None, "parallel.offload": False,
    "parallel.schedule": "1f1b", "parallel.deepspeed": None, "parallel.reduce_dtype": None,
}  # fmt: skip
"""what makes one process of any layout"""


def alternatives(layout: Layout, processes: int, *, kind: str = "cuda") -> Iterator[Layout]:
    """The layouts of a table: the user's own first, then one process, then every strategy on so many processes.

    Args:
        kind: "cpu" or "cuda"; on a CPU nothing is moved to the CPU's memory.
    """
    seen: set[str] = set()
    plain = {**SINGLE, "parallel.recompute": False}
    wanted: list[tuple[Mapping[str, Any], int]] = [({}, layout.processes)]
    wanted += [(plain, 1), ({**plain, "parallel.recompute": True}, 1)]
    if processes > 1:
        wanted += [({**plain, "parallel.strategy": name}, processes) for name in _OURS]
        aside = _OURS[1:] if kind != "cpu" else ()
        wanted += [({**plain, "parallel.strategy": name, "parallel.offload": True}, processes) for name in aside]
        for axis in ("tensor", "pipeline"):
            wanted.append(({**plain, "parallel.strategy": "ddp", f"parallel.{axis}": processes}, processes))
        for half in range(2, processes // 2 + 1):
            if processes % half == 0 and half * 2 <= processes:
                both = {"parallel.strategy": "fsdp", "parallel.tensor": half, "parallel.recompute": True}
                wanted.append(({**plain, **both}, processes))
    for settings, count in wanted:
        try:
            made = changed(layout, settings, processes=count)
            _ = made.sizes
        except ConfigError:  # settings of the run that another strategy has no place for
            continue
        if made.key() not in seen:
            seen.add(made.key())
            yield made
