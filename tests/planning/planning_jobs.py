"""What the processes of a `world` tell of a model that is really placed: the bytes that lie on each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
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
