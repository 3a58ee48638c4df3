"""Parameters → optimizer, step → learning rate. Knows no loop and no task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from flagai.config import TrainConfig


def adamw(config: TrainConfig) -> Callable[[torch.nn.Module], torch.optim.AdamW]:
    """A factory of fused AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) for `Strategy.optimizer`.

    Vectors (biases, norms) are not decayed; a new head may have its own learning rate.
    """

    def build(model: torch.nn.Module) -> torch.optim.AdamW:
        head = {id(p) for p in head_parameters(model)}
        groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
        for parameter in model.parameters():
            if parameter.requires_grad:
                groups.setdefault((id(parameter) in head, parameter.ndim > 1), []).append(parameter)
        rates = {False: config.learning_rate, True: config.head_learning_rate or config.learning_rate}
        return torch.optim.AdamW(
            [
                {
                    "params": parameters,
                    "weight_decay": config.weight_decay if decayed else 0.0,
                    "lr": rates[is_head],
                    "peak": rates[is_head],
                }
                for (is_head, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
            ],
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            fused=True,
        )

    return build


def head_parameters(model: torch.nn.Module) -> Iterable[torch.nn.Parameter]:
    """The parameters outside the pretrained base: our head, or the classifier of a stock class and its pooler."""
    base = getattr(model, "body", model)
    inner = getattr(base, getattr(base, "base_model_prefix", ""), None)
    if inner is None and base is model:
        return []
    # A pooler stands between body and head; most checkpoints hold none that was trained.
    pretrained = (inner if inner is not None else base).named_parameters()
    known = {id(p) for name, p in pretrained if not name.startswith("pooler.")}
    return [p for p in model.parameters() if id(p) not in known]


def schedule(
    kind: str, *, total: int, warmup_ratio: float, decay_ratio: float = 0.0, decay_steps: int | None = None
) -> Callable[[int], float]:
    """The factor on the learning rate at the 0-based step: up linearly, then down to `decay_ratio` by `kind`.

    Rise and fall take `decay_steps` (default: all); later the factor stays at `decay_ratio`. The formula is that of the
    AnnealingLR by which GLM was pre-trained, with the warm-up one step ahead, so that the first step is not lost to a
    learning rate of 0: W = warmup_ratio · steps, r = (step − W) / (steps − W),
    cosine: ρ + (1 − ρ)(1 + cos πr) / 2, linear: 1 − (1 − ρ) r.
    """
    steps = decay_steps or total
    warmup = math.ceil(steps * warmup_ratio)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        if kind == "linear":
            return 1 - (1 - decay_ratio) * progress
        if kind == "cosine":
            return decay_ratio + (1 - decay_ratio) * (1 + math.cos(math.pi * progress)) / 2
        return 1.0

    return factor
