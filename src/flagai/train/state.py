"""Where a run is: plain numbers that a checkpoint keeps beside weights and optimizer. Knows no model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(kw_only=True)
class TrainState:
    """All that changes while a run goes on and is neither a tensor nor a function of the step."""

    step: int = 0
    """optimizer steps done"""
    evaluated_step: int = 0
    """the step of the last evaluation that was completed"""
    best_metric: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    stopped: bool = False
    """whether early stopping ended the run"""
    seconds: float = 0.0
    """spent in training steps, over all parts of the run"""
    tokens: int = 0
    """useful tokens trained on, over all processes"""
    slots: int = 0
    """token slots, padding included"""
    examples: int = 0
    window: dict[str, float] = field(default_factory=dict)
    """sums since the last line of the log"""
    pieces: int = 1
    """in how many times more micro-batches a step is computed than asked for, since memory ran out"""
    epoch_steps: list[int] = field(default_factory=list)
    """steps of each epoch as far as they were counted, so that a continued run finds its place without counting"""
    epoch_key: str = ""
    """what `epoch_steps` depends on (`BatchPlan.key`)"""

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON, for the checkpoint's state.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainState:
        """The state that `to_json` wrote."""
        return cls(**values)
