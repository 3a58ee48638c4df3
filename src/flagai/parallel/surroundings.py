"""What started this process beside others, from its environment variables. Knows no torch and opens no connection."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Final

from flagai.errors import ConfigError

PORT: Final = 29500
"""where the first process listens unless told otherwise; torchrun's own default"""


def patience(default: float = 1800.0) -> float:
    """Seconds to wait for other processes or machines: the variable FLAGAI_TIMEOUT, or the default.

    Raises:
        ConfigError: the variable is no number above 0.
    """
    text = os.environ.get("FLAGAI_TIMEOUT", "")
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if 0 < seconds < float("inf"):
        return seconds
    raise ConfigError(
        f"FLAGAI_TIMEOUT is {text!r}", where="environment", expected="seconds, above 0", fix="unset FLAGAI_TIMEOUT"
    )


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """The place of a process among all that were started together.

    Args:
        by: who started them, for messages.
        rank: number of this process among all, from 0.
        size: all processes.
        local_rank: its number among those of its machine.
        address: host of the first process; "" where nothing says it.
        port: where that one listens.
    """

    by: str
    rank: int
    size: int
    local_rank: int = 0
    address: str = ""
    port: int = PORT

    def variables(self) -> dict[str, str]:
        """The same in torchrun's words, which torch, DeepSpeed and Megatron-Core read."""
        known = {"RANK": self.rank, "WORLD_SIZE": self.size, "LOCAL_RANK": self.local_rank, "MASTER_PORT": self.port}
        return {name: str(value) for name, value in known.items()} | (
            {"MASTER_ADDR": self.address} if self.address else {}
        )


@dataclass(frozen=True, kw_only=True)
class _Words:
    """The variables in which one launcher says where a process stands."""

    by: str
    rank: str
    size: str
    local_rank: str


_TORCHRUN: Final = _Words(by="torchrun", rank="RANK", size="WORLD_SIZE", local_rank="LOCAL_RANK")
# SLURM_STEP_…: the shell of an allocation has SLURM_PROCID and SLURM_NTASKS too, but is one process.
_SLURM: Final = _Words(by="Slurm", rank="SLURM_PROCID", size="SLURM_STEP_NUM_TASKS", local_rank="SLURM_LOCALID")
_LAUNCHERS: Final = (
    _TORCHRUN,
    _Words(
        by="Open MPI",
        rank="OMPI_COMM_WORLD_RANK",
        size="OMPI_COMM_WORLD_SIZE",
        local_rank="OMPI_COMM_WORLD_LOCAL_RANK",
    ),
    _Words(by="MPI", rank="PMI_RANK", size="PMI_SIZE", local_rank="MPI_LOCALRANKID"),
    _SLURM,
)


def find(environ: Mapping[str, str] = os.environ) -> Surroundings | None:
    """The others of this process; None where it was started alone.

    torchrun's variables come first: where it was itself started by MPI or Slurm, its workers have both.
    DeepSpeed's launcher sets the same ones as torchrun.

    Raises:
        ConfigError: variables that say half of it, or no numbers.
    """
    for words in _LAUNCHERS:
        if words.rank in environ and words.size in environ:
            return _read(words, environ)
    return None


def adopt(environ: MutableMapping[str, str] = os.environ) -> Surroundings | None:
    """`find`, then say it in torchrun's variables too, where those are not there yet."""
    found = find(environ)
    if found is not None:
        for name, value in found.variables().items():
            environ.setdefault(name, value)
    return found


def _read(words: _Words, environ: Mapping[str, str]) -> Surroundings | None:
    rank, size = _number(words.rank, environ), _number(words.size, environ)
    if rank >= size:
        raise ConfigError(
            f"{words.rank} is {rank}, {words.size} is {size}",
            where="environment",
            expected="a rank below the number of processes",
            fix=f"start the run by {words.by}, or unset both variables",
        )
    if size == 1 and words is not _TORCHRUN:
        return None  # one task of a batch system is a machine of its own, which may start what it likes
    return Surroundings(
        by=words.by,
        rank=rank,
        size=size,
        local_rank=_number(words.local_rank, environ) if words.local_rank in environ else 0,
        address=environ.get("MASTER_ADDR", "") or (_slurm_host(environ) if words is _SLURM else ""),
        port=_number("MASTER_PORT", environ) if environ.get("MASTER_PORT") else _port(words, environ),
    )


def _number(name: str, environ: Mapping[str, str]) -> int:
    text = environ[name].strip()
    if not text.isdecimal():
        raise ConfigError(f"{name} is {text!r}", where="environment", expected="a number", fix=f"unset {name}")
    return int(text)


def _port(words: _Words, environ: Mapping[str, str]) -> int:
    """Jobs of a batch system may share a machine, so each gets a port of its own; all processes compute the same."""
    job = environ.get("SLURM_JOB_ID", "")
    return PORT + int(job) % 1000 if words is _SLURM and job.isdecimal() else PORT


def _slurm_host(environ: Mapping[str, str]) -> str:
    """The first machine of a step: Slurm puts the first task there."""
    stated = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    return first_host(stated)


def first_host(nodes: str) -> str:
    """The first name of a list in Slurm's notation: `gpu[07-09,12],login` → `gpu07`."""
    first = re.match(r"[^,\[]*(?:\[([^\]]*)\])?[^,\[]*", nodes)
    assert first is not None  # the pattern matches the empty text too
    number = re.split(r"[-,]", first[1])[0] if first[1] else ""
    return re.sub(r"\[[^\]]*\]", number, first[0])
