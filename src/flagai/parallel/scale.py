"""The loss scale of fp16: up after many good steps, down after an overflow. Knows no tensor.

Source: Micikevicius et al. 2017, "Mixed Precision Training" (arXiv:1710.03740), section 3.2. The numbers and the saved
form are those of torch's GradScaler, so that one process and many continue each other's runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class LossScale:
    """The factor on the loss; 1 for ever where it is not `enabled`."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled, self.value = enabled, 2.0**16 if enabled else 1.0
        self._growth, self._backoff, self._interval, self._good = 2.0, 0.5, 2000, 0

    def update(self, norm: float) -> bool:
        """After a step with gradients of this norm: whether its update may be made."""
        if not self.enabled:
            return True
        if not math.isfinite(norm):
            self.value, self._good = self.value * self._backoff, 0
            return False
        self._good += 1
        if self._good == self._interval:
            self.value, self._good = self.value * self._growth, 0
        return True

    def state(self) -> dict[str, Any]:
        """As GradScaler has it; {} where there is no scale."""
        if not self.enabled:
            return {}
        return {
            "scale": self.value,
            "growth_factor": self._growth,
            "backoff_factor": self._backoff,
            "growth_interval": self._interval,
            "_growth_tracker": self._good,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        if self.enabled and state:
            self.value, self._good = float(state["scale"]), int(state["_growth_tracker"])
            self._growth, self._backoff = float(state["growth_factor"]), float(state["backoff_factor"])
            self._interval = int(state["growth_interval"])
