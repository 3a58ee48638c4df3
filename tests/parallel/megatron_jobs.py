"""What the processes of a `world` do for test_megatron.py: the jobs of spread_jobs.py under strategy megatron."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import spread_jobs as jobs
import spread_models as models

from flagai.errors import FlagaiError
from flagai.parallel.axes import Sizes
from flagai.parallel.megatron import Megatron


def _megatron(sizes: Mapping[str, int], **options: Any) -> Megatron:
    return Megatron(Sizes(**sizes), device="cpu", **options)


def job(name: str, *, vocabulary: int = jobs.VOCABULARY, plant: str = "", **arguments: Any) -> Any:
    """A job of spread_jobs.py with the strategy exchanged.

    Args:
        plant: a mistake to make, which the comparison must notice.
    """
    from flagai.parallel import megatron_layers

    usual, number, summed = jobs.make, jobs.VOCABULARY, megatron_layers.copy_to_tensor_model_parallel_region
    jobs.make, jobs.VOCABULARY, models.VOCABULARY = _megatron, vocabulary, vocabulary  # type: ignore[assignment]
    if plant == "gradients of q, k and v in pieces":
        megatron_layers.copy_to_tensor_model_parallel_region = lambda x, group: x
    try:
        return getattr(jobs, name)(**arguments)
    finally:
        jobs.make, jobs.VOCABULARY, models.VOCABULARY = usual, number, number
        megatron_layers.copy_to_tensor_model_parallel_region = summed


def kinds(family: str, sizes: Mapping[str, int]) -> dict[str, int]:
    """How many layers of each of Megatron's kinds a placed model has, and how many entries its state dict adds."""
    from megatron.core.tensor_parallel import layers

    model = jobs.model_of(family)
    names = set(model.state_dict())
    placed = _megatron(sizes).place(model)
    theirs = (layers.ColumnParallelLinear, layers.RowParallelLinear, layers.VocabParallelEmbedding)
    found = Counter(kind.__name__ for m in placed.modules() for kind in theirs if isinstance(m, kind))
    return dict(found) | {"new names": len(set(placed.state_dict()) ^ names)}


def error(family: str, sizes: Mapping[str, int], *, vocabulary: int = jobs.VOCABULARY) -> tuple[str, str]:
    """What placing a model says."""
    try:
        job("model_of", vocabulary=vocabulary, family=family)
        _megatron(sizes).place(job("model_of", vocabulary=vocabulary, family=family))
    except FlagaiError as found:
        return type(found).__name__, str(found)
    return "", ""


def save(family: str, sizes: Mapping[str, int], folder: str, rows: tuple[int, ...]) -> tuple[str, str]:
    """Train, and write Megatron's checkpoint; the error, if any."""
    from flagai.parallel.megatron_files import save_distributed

    strategy = _megatron(sizes)
    strategy.place(jobs.model_of(family))
    strategy.optimizer(jobs.adamw)
    jobs.steps(strategy, family, rows, 1)
    try:
        save_distributed(strategy, Path(folder))
    except FlagaiError as found:
        return type(found).__name__, str(found)
    return "", ""


def load(
    family: str, sizes: Mapping[str, int], folder: str, rows: tuple[int, ...], first: int, *, native: bool = False
) -> dict[str, Any]:
    """Read it into a fresh model, and train on; or the error.

    Args:
        native: under strategy Spread instead of Megatron.
    """
    from flagai.parallel.megatron_files import load_distributed

    strategy = jobs.make(sizes) if native else _megatron(sizes)
    strategy.place(jobs.model_of(family))
    strategy.optimizer(jobs.adamw)
    before = {name: t.detach().numpy().copy() for name, t in strategy.weights()}
    try:
        load_distributed(strategy, Path(folder))
    except FlagaiError as found:
        same = all(np.array_equal(before[name], t.detach().numpy()) for name, t in strategy.weights())
        return {"error": (type(found).__name__, str(found)), "unchanged": same}
    found = jobs.steps(strategy, family, rows, 1, first=first)
    return {"steps": found, "weights": {name: t.detach().numpy().copy() for name, t in strategy.weights()}}


def read_by_megatron(family: str, folder: str) -> dict[str, Any]:
    """The halves of the word table that Megatron's own loader gives the two processes, put in their places."""
    import torch.distributed as dist
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing import ShardedTensor

    name, table = next((n, t) for n, t in jobs.model_of(family).named_parameters() if "word" in n or "wte" in n)
    half = table.detach().chunk(2)[dist.get_rank()].clone().zero_()
    wanted = {"half": ShardedTensor.from_rank_offsets(name, half, (0, dist.get_rank(), 2))}
    return {"name": name, "half": dist_checkpointing.load(wanted, folder)["half"].numpy().copy()}
