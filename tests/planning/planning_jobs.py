"""What the processes of a `world` tell of a model that is really placed: the bytes that lie on each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import zero_jobs
from spread_jobs import adamw, batch_of, loss_of, make
from spread_models import model_of
from torch import Tensor


def _storages(tensors: Iterable[Tensor]) -> int:
    """The memory behind tensors, each piece once."""
    local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    found = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in local}
    return sum(found.values())


def placed(family: str, sizes: Mapping[str, int] | None, **options: Any) -> dict[str, int]:
    """Bytes of parameters, gradients, optimizer states and tables of this process, after a step was begun."""
    strategy = make(sizes, **options)
    model = strategy.place(model_of(family))
    optimizer = strategy.optimizer(adamw)
    parts = [batch_of(family, 0, np.arange(8))] * 2
    strategy.accumulate(parts, loss_of)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    told = {
        "parameters": _storages(model.parameters()),
        "gradients": sum((g.to_local() if hasattr(g, "to_local") else g).nbytes for g in gradients),
        "buffers": _storages(model.buffers()),
    }
    strategy.clip(1.0)
    strategy.step([1e-3 for _ in optimizer.param_groups])
    told["optimizer"] = _storages(v for values in optimizer.state.values() for v in values.values())
    return told


def zeroed(family: str, stage: int, precision: str) -> dict[str, int]:
    """The same under a stage of DeepSpeed's ZeRO; gradients as they are after backward.

    "counters" are AdamW's, of which there is one for each piece of a parameter; with "masters" they and the moments
    make up "optimizer".
    """
    strategy = zero_jobs.make(stage, precision=precision)
    model: Any = strategy.place(model_of(family))
    optimizer = strategy.optimizer(adamw)
    parts = [batch_of(family, 0, np.arange(8))] * 2
    strategy.accumulate(parts, loss_of)
    strategy.clip(1.0)
    strategy.step([1e-3 for _ in optimizer.param_groups])
    zero: Any = strategy._engine._zero  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
    gradients: list[int] = []
    if stage == 1:
        _before_the_exchange(strategy, model, gradients)
    strategy.accumulate(parts, loss_of)
    if stage > 1:
        gradients.append(_storages(t for group in zero.averaged_gradients.values() for t in group))
    lie = [getattr(p, "ds_tensor", p) for p in model.parameters()]
    masters = zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups
    states = list(optimizer.state.values())
    told = {
        "parameters": _storages([*lie, *model.parameters()]),
        "gradients": gradients[0],
        "masters": _storages(masters),
        "moments": _storages(values[key] for values in states for key in ("exp_avg", "exp_avg_sq")),
        "counters": _storages(values["step"] for values in states),
    }
    told["optimizer"] = told["masters"] + told["moments"]
    strategy.close()
    return told


def _before_the_exchange(strategy: Any, model: Any, found: list[int]) -> None:
    """Stage 1 holds all gradients until its one exchange at the end of a step's backwards."""
    engine = strategy._engine
    missing = engine.add_missing

    def note(used: set[str]) -> None:
        missing(used)
        there = [engine._zero.get_gradient_for_reduction(p) for p in model.parameters() if p.requires_grad]
        found.append(_storages(gradient for gradient in there if gradient is not None))

    engine.add_missing = note
