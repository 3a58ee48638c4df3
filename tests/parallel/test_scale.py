"""The loss scale of fp16 goes through checkpoints and changes of layout: value, good steps, interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scale_jobs as jobs
from spread_checks import HALF, quick

SIZES = {"ddp": {"replicate": 2}, "fsdp": {"shard": 2}, "tensor": {"tensor": 2}, "pipeline": {"pipeline": 2}}


@pytest.mark.parametrize("way", quick(list(SIZES), but={"ddp"}))
def test_the_scale_goes_there_and_back(two: Any, way: str, tmp_path: Path) -> None:
    """Doubled at each third good step: once by two processes and once by one, which each needs the other's count."""
    roots = [str(tmp_path / name) for name in ("one", "two", "three", "whole")]
    first = jobs.train(None, None, roots[0], steps=2)
    middle = two.run("scale_jobs:train", sizes=SIZES[way], root=roots[0], to=roots[1], steps=2)
    last = jobs.train(None, roots[1], roots[2], steps=2)
    for part in middle:
        assert part["found"] == first["left"] and part["left"] == last["found"]
    assert counts(first["left"]) == (jobs.SCALE, 2)
    assert counts(last["found"]) == (2 * jobs.SCALE, 1)
    assert counts(last["left"]) == (4 * jobs.SCALE, 0)
    whole = jobs.train(None, None, roots[3], steps=6)
    assert whole["left"] == last["left"]
    steps = np.array(first["steps"] + middle[0]["steps"] + last["steps"])
    assert np.isfinite(steps).all() and np.abs(steps - whole["steps"]).max() < HALF


def counts(scaler: dict[str, Any]) -> tuple[float, int]:
    """The scale, and the good steps since it last changed."""
    assert scaler["growth_interval"] == jobs.INTERVAL
    return scaler["scale"], scaler["_growth_tracker"]
