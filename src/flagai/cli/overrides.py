"""run.yaml + command line → RunConfig, with its names checked. Knows no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flagai.config import RunConfig, load_config
from flagai.errors import ConfigError
from flagai.tasks.table import find_row


def load(
    source: Path | Mapping[str, Any], overrides: Sequence[str], *, resume: bool = False, fresh: bool = False
) -> RunConfig:
    """The configuration of a run; `--resume` and `--fresh` are short for `train.resume=true` and `=false`."""
    if resume and fresh:
        raise ConfigError("--resume and --fresh are both given", fix="give one of them")
    short = ["train.resume=true"] if resume else ["train.resume=false"] if fresh else []
    config = load_config(source, [*overrides, *short])
    find_row(config.task.name)
    return config
