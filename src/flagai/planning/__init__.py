"""What a run will need before it is started: memory, time and disk, and the smallest change that makes it fit."""

from flagai.planning.planner import plan
from flagai.planning.results import Change, Disk, Measured, Planned, Row

__all__ = ["Change", "Disk", "Measured", "Planned", "Row", "plan"]
