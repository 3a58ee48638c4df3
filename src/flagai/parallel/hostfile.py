"""Files of lines `host slots=N`, as the original and DeepSpeed have them. Knows no process."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flagai.errors import ConfigError, MissingFileError

_LINE: Final = re.compile(r"(\S+)(?:\s+slots\s*=\s*(\d+))?")


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine and the processes that it takes."""

    name: str
    slots: int


def read_hostfile(path: Path) -> list[Host]:
    """The machines of a file, in its order; `#` begins a comment, a line without `slots` has one.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: a line that cannot be read, a machine named twice, or none at all.
    """
    if not path.is_file():
        raise MissingFileError(
            "there is no such hostfile", where=str(path), expected="a text file of lines like: node1 slots=8"
        )
    hosts: dict[str, Host] = {}
    for number, line in _lines(path):
        host = _host(line, f"{path}:{number}")
        if host.name in hosts:
            raise ConfigError(
                f"{host.name} is named twice",
                where=f"{path}:{number}",
                expected="one line a machine",
                fix="take one out, and add its slots to the other",
            )
        hosts[host.name] = host
    if not hosts:
        raise ConfigError("no machine is named", where=str(path), expected="lines like: node1 slots=8")
    return list(hosts.values())


def _lines(path: Path) -> Iterable[tuple[int, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if text := line.partition("#")[0].strip():
            yield number, text


def _host(line: str, where: str) -> Host:
    found = _LINE.fullmatch(line)
    slots = int(found[2] or 1) if found else 0
    # A name that began with a dash would be an option to ssh.
    if found is None or not slots or line.startswith("-"):
        raise ConfigError(
            f"cannot be read: {line!r}", where=where, expected="<host> slots=<number above 0>", fix="mend the line"
        )
    return Host(name=found[1], slots=slots)
