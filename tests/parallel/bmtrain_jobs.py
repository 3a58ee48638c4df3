"""What the processes of a `world` do for test_bmtrain.py: the jobs of spread_jobs.py under strategy bmtrain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bmtrain_stand_in
import spread_jobs as jobs
import torch
import torch.distributed as dist
from torch import Tensor

from flagai.errors import FlagaiError
from flagai.parallel.bmtrain import BMTrain
from flagai.parallel.bmtrain_model import prepare
from flagai.parallel.strategy import Strategy


def _bmtrain(sizes: Mapping[str, int], **options: Any) -> BMTrain:
    options = {"precision": "fp32"} | options
    return BMTrain(bmtrain_stand_in, device="cpu", **options)


def _moments(strategy: Strategy) -> dict[str, Tensor]:
    """The moments of all processes, put together from their parts."""
    there: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(there, [part for part in strategy.parts() if part.key])
    whole: dict[str, Tensor] = {}
    for part in (part for parts in there for part in parts):
        found = whole.setdefault(f"{part.name}/{part.key}", torch.full(part.whole, torch.nan, dtype=part.tensor.dtype))
        found[part.box.slices] = part.tensor
    return whole


def job(name: str, *, plant: str = "", **arguments: Any) -> Any:
    """A job of spread_jobs.py with the strategy exchanged.

    Args:
        plant: a mistake to make, which the comparison must notice.
    """
    usual, moments, zero = jobs.make, jobs.moments_of, bmtrain_stand_in._OptimManager.zero_grad
    jobs.make, jobs.moments_of = _bmtrain, _moments  # type: ignore[assignment]
    if plant == "gradients set to None":
        bmtrain_stand_in._OptimManager.zero_grad = lambda self: [o.zero_grad() for o in self.optimizers]  # type: ignore[method-assign]
    try:
        return getattr(jobs, name)(sizes={}, **arguments)
    finally:
        jobs.make, jobs.moments_of = usual, moments
        bmtrain_stand_in._OptimManager.zero_grad = zero  # type: ignore[method-assign]


def prepared(family: str) -> dict[str, Any]:
    """What `prepare` makes of a model: names, ties, kinds and blocks."""
    bmtrain_stand_in.init_distributed()
    model = jobs.model_of(family)
    names = [name for name, _ in model.named_parameters()]
    ties = len(list(model.named_parameters(remove_duplicate=False))) - len(names)
    made = prepare(model, bmtrain_stand_in)
    modules = list(made.modules())
    return {
        "same names": [name for name, _ in made.named_parameters()] == names,
        "ties": (ties, len(list(made.named_parameters(remove_duplicate=False))) - len(names)),
        "cut": all(isinstance(p, bmtrain_stand_in.DistributedParameter) for p in made.parameters()),
        "blocks": sum(isinstance(module, bmtrain_stand_in.Block) for module in modules),
        "same kind": type(made) is type(jobs.model_of(family)),
    }


def shared() -> tuple[str, str]:
    """What `prepare` says of a model whose layers share a parameter with what lies outside."""
    bmtrain_stand_in.init_distributed()
    model = jobs.model_of("glm")
    layer = model.glm.transformer.layers[0]
    layer.post_attention_layernorm.weight = model.glm.transformer.final_layernorm.weight
    try:
        prepare(model, bmtrain_stand_in)
    except FlagaiError as error:
        return type(error).__name__, str(error)
    return "", ""


def seeded() -> bool:
    """Whether starting BMTrain leaves the random stream alone."""
    bmtrain_stand_in.config["initialized"] = False
    torch.manual_seed(7)
    expected = torch.get_rng_state()
    _bmtrain({})
    return torch.equal(torch.get_rng_state(), expected)
