"""The layouts that are held against one another: names, processes and settings. Knows no strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to spread a model.

    Args:
        name: for tables.
        processes: how many it takes here.
        parallel: the section `parallel` of a run.yaml.
    """

    name: str
    processes: int
    parallel: Mapping[str, Any] = field(default_factory=dict)

    def section(self) -> dict[str, Any]:
        """The whole section `parallel`, processes included."""
        return {"strategy": "single", **self.parallel, "processes": self.processes}


ONE: Final = Layout(name="one process", processes=1)
LAYOUTS: Final = (
    ONE,
    Layout(name="DDP 2", processes=2, parallel={"strategy": "ddp"}),
    Layout(name="FSDP2 2", processes=2, parallel={"strategy": "fsdp"}),
    Layout(name="ZeRO-1 2", processes=2, parallel={"strategy": "zero1"}),
    Layout(name="ZeRO-2 2", processes=2, parallel={"strategy": "zero2"}),
    Layout(name="ZeRO-3 2", processes=2, parallel={"strategy": "zero3"}),
    Layout(name="TP 2", processes=2, parallel={"strategy": "ddp", "tensor": 2}),
    Layout(name="PP 2", processes=2, parallel={"strategy": "ddp", "pipeline": 2}),
    Layout(name="TP 2 × DP 2", processes=4, parallel={"strategy": "ddp", "tensor": 2}),
    Layout(name="PP 2 × DP 2", processes=4, parallel={"strategy": "ddp", "pipeline": 2}),
)
"""those of the matrix of checkpoints"""
MORE: Final = (
    Layout(name="TP 2, shared tokens", processes=2, parallel={"strategy": "ddp", "tensor": 2, "sequence": True}),
    Layout(name="CP 2", processes=2, parallel={"strategy": "ddp", "context": 2}),
    Layout(name="FSDP2 2 × TP 2", processes=4, parallel={"strategy": "fsdp", "tensor": 2}),
    Layout(name="FSDP2 2 × copies 2", processes=4, parallel={"strategy": "fsdp", "shard": 2}),
)
"""further ones"""
