"""What a plan says, as plain results: layouts and their bytes, the measured step, time, disk, the smallest change.

It knows no model and no torch: what is here is JSON in Python, on the command line and in files alike.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """A layout and what its neediest process needs, in bytes.

    Args:
        name: in words; `own` for the user's own settings.
        settings: what to set for it, as on a command line.
        parameters, gradients, optimizer, buffers: exact, between steps.
        gathered: at most, of parameters and gradients in shards that are put together for a while.
        activations: at most, of the heaviest part of a batch.
        batch: inputs and targets of a step.
        offloaded: of parameters, gradients and optimizer, what lies in the CPU's memory.
        peak: at most, of all at one moment, with what the program itself takes; less than the sum, for gradients come
            as activations go.
        fits: whether that is no more than the memory.
        problem: why the layout cannot be; the numbers are 0 then.
    """

    name: str
    processes: int
    settings: tuple[str, ...] = ()
    own: bool = False
    parameters: int = 0
    gradients: int = 0
    optimizer: int = 0
    buffers: int = 0
    gathered: int = 0
    activations: int = 0
    batch: int = 0
    offloaded: int = 0
    peak: int = 0
    fits: bool = False
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Real steps on this machine, of the user's own layout.

    Args:
        predicted, peak: bytes of the neediest process, as planned and as seen.
        heaviest, typical: seconds of a step of the heaviest and of the median weight.
        problem: why nothing was measured.
    """

    predicted: int = 0
    peak: int = 0
    heaviest: float = 0.0
    typical: float = 0.0
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Change:
    """The smallest change that fits.

    Args:
        settings: what to set, as on a command line; empty where nothing need be changed, or nothing helps.
        processes: for so many processes.
        peak: bytes of the neediest process then.
        found: whether it fits.
        needed: whether anything had to be changed.
    """

    settings: tuple[str, ...] = ()
    processes: int = 1
    peak: int = 0
    found: bool = True
    needed: bool = False


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes on the disk at most, while a checkpoint is written, and what is free there."""

    checkpoint: int
    checkpoints: int
    models: int
    total: int
    free: int


@dataclass(frozen=True, kw_only=True)
class Planned:
    """All that `flagai plan` says.

    Args:
        parameters, trained: numbers of the model.
        device: "cpu" or "cuda".
        memory: bytes of one device.
        program: bytes that the program takes beside the model.
        steps: of the run.
        examples, length: rows and tokens of the heaviest part of a batch that one process computes at once.
        parts: such parts of a step.
        seconds: of all steps, evaluations not counted; None where no step was measured.
        copy: bytes of the copy of a checkpoint in the CPU's memory while it is written in the background.
    """

    parameters: int
    trained: int
    device: str
    memory: int
    program: int
    steps: int
    examples: int
    length: int
    parts: int
    rows: tuple[Row, ...]
    change: Change | None
    measured: Measured | None
    seconds: float | None
    disk: Disk
    copy: int

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)
