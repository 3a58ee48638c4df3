"""Equally many micro-batches on all processes that must run in step. Knows neither model nor loss.

A short batch may give some processes fewer micro-batches, or none; where each forward is a meeting of all, one that
stays away would leave the others waiting. What is added counts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

Weighted = list[tuple[Mapping[str, Any], float]]


def even(micro_batches: Sequence[Mapping[str, Any]], group: Any, device: torch.device) -> Weighted:
    """The micro-batches with weight 1, then repeated ones with weight 0, to the most that a process of `group` has."""
    mine = len(micro_batches)
    bounds = torch.tensor([mine, -mine], device=device)
    dist.all_reduce(bounds, dist.ReduceOp.MAX, group=group)
    most, least = int(bounds[0]), -int(bounds[1])
    weighted: Weighted = [(batch, 1.0) for batch in micro_batches]
    filler = micro_batches[-1] if mine else None
    if least == 0 and most > 0:
        filler = _from_the_first(filler, group, device)
    if filler is not None:
        weighted += [(filler, 0.0)] * (most - mine)
    return weighted


def _from_the_first(batch: Mapping[str, Any] | None, group: Any, device: torch.device) -> Mapping[str, Any] | None:
    """A batch for those that have none, from the first process that has one."""
    size = dist.get_world_size(group)
    has = torch.tensor([dist.get_rank(group) if batch is not None else size], device=device)
    dist.all_reduce(has, dist.ReduceOp.MIN, group=group)
    told: list[Any] = [batch]
    dist.broadcast_object_list(told, dist.get_global_rank(group, int(has)), group=group)
    return batch if batch is not None else told[0]
