"""What this machine has: memory of its devices, memory of this program, room on its disk. Knows no model."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final

import torch

from flagai.errors import ConfigError

_UNITS: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_WRITTEN: Final = re.compile(r"\s*([\d.]+)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)
GPU_CONTEXT: Final = 600 << 20
"""what a GPU holds for a process before its first tensor, and for its libraries: half a gigabyte, by experience"""


def read_size(text: str) -> int:
    """Bytes from "24GiB", "24GB" or a number of bytes. Raises ConfigError."""
    found = _WRITTEN.fullmatch(text)
    if found is None or found[1].count(".") > 1 or not found[1].strip("."):
        raise ConfigError(f"{text!r} is no amount of memory", expected="24GiB, 80GB, …", where="--memory")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** _UNITS[found[2].upper()])


def device_memory(kind: str) -> int:
    """Bytes of one device of this machine: a GPU's own memory, or all of the machine's for the CPU."""
    if kind == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits()])


def _limits() -> list[int]:
    """Bounds that a container sets."""
    files = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    texts = [Path(file).read_text(encoding="ascii").strip() for file in files if Path(file).is_file()]
    return [int(text) for text in texts if text.isdigit()]


def available_memory() -> int:
    """Bytes that programs may still take on this machine, without any going to the disk."""
    known = status("/proc/meminfo").get("MemAvailable")
    return min([known if known is not None else device_memory("cpu"), *_limits()])


def program_memory() -> int:
    """Bytes of this process that lie in memory now."""
    return status("/proc/self/status").get("VmRSS", 0)


def status(file: str) -> dict[str, int]:
    """The amounts in a file of Linux's /proc, in bytes; {} where there is none."""
    try:
        lines = Path(file).read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    found = (re.fullmatch(r"(\w+):\s+(\d+) kB", line) for line in lines)
    return {match[1]: int(match[2]) * 1024 for match in found if match}


def free_disk(folder: Path) -> int:
    """Bytes free where a folder lies or will lie."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def count_devices(kind: str) -> int:
    """Devices of this machine; the CPU is one."""
    return max(1, torch.cuda.device_count()) if kind == "cuda" else 1
