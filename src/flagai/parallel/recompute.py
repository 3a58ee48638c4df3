"""Activations of whole layers computed twice instead of kept: memory for time. Knows no family and no step.

Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost" (arXiv:1604.06174).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from flagai.errors import ModelError
from flagai.models.plan import Plan
from flagai.parallel.plan import blocks


def recompute_layers(model: nn.Module, plan: Plan | None) -> None:
    """Make the layers of a model forget what they computed until backward asks for it.

    Random streams are wound back, so that dropout is the same both times.

    Raises:
        ModelError: nothing says what the layers are.
    """
    if (inner := _of_transformers(model)) is not None:  # its layers know what must not be done twice: filling a cache
        newer = getattr(inner, "activation_checkpointing_enable", None)
        (newer or inner.gradient_checkpointing_enable)({"use_reentrant": False})
        return
    layers = [layer for layer in blocks(model, plan) if any(True for _ in layer.parameters())]
    if not layers:
        raise ModelError(
            f"nothing says what the layers of {type(model).__name__} are",
            where="parallel.recompute",
            expected="a family with a plan, or a Hugging Face model",
            fix="set model.flagai_plan to a Plan with `recompute`, or take parallel.recompute out",
        )
    for layer in layers:
        _wrap(layer)


def _of_transformers(model: nn.Module) -> Any:
    """The Hugging Face model, or the one inside a wrapper, that can do it itself."""
    return next((m for m in model.modules() if getattr(m, "supports_gradient_checkpointing", False)), None)


def _wrap(block: nn.Module) -> None:
    original = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if block.training and torch.is_grad_enabled():
            return checkpoint(original, *args, use_reentrant=False, **kwargs)
        return original(*args, **kwargs)

    block.forward = forward  # type: ignore[method-assign]
