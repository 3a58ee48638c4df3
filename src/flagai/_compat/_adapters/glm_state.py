"""Tensors of today's GLM under the original's names, and back. Knows no file and no forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from flagai.errors import CheckpointError
from flagai.models.glm.layouts import bare_name, differences, fused_name, is_head, original_name, our_names

_TIED: Final = "lm_head.weight"


def to_original(model: Any) -> dict[str, Tensor]:
    """The state dict as the original names it: query, key and value in one, a classifier's body behind `model.`."""
    groups: dict[str, list[Tensor]] = {}
    for name, tensor in model.state_dict().items():
        if name != _TIED:
            groups.setdefault(fused_name(name.removeprefix("glm."))[0], []).append(tensor)
    state = {name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in groups.items()}
    if not any(map(is_head, state)):
        return state
    return {original_name(name): tensor for name, tensor in state.items()}


def fill(model: Any, state: Mapping[str, Any], *, strict: bool, where: str) -> None:
    """Take weights under the original's names, Hugging Face's or ours.

    Args:
        strict: whether a classifier's layers must be there too, and nothing else.

    Raises:
        CheckpointError: a tensor of the body is missing or of another shape.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if name != _TIED}
    given = {name: tensor for name, tensor in _ours(state).items() if strict or name in own}
    if found := differences(_shapes(given), _shapes(own), heads=strict):
        raise CheckpointError(found, where=where, expected="the weights of this GLM")
    model.load_state_dict(given, strict=False)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _ours(state: Mapping[str, Any]) -> dict[str, Tensor]:
    given: dict[str, Tensor] = {}
    for name, tensor in state.items():
        bare = bare_name(name)
        if bare is None or name.endswith(_TIED) or not isinstance(tensor, Tensor):
            continue
        names = our_names(bare)
        given |= dict(zip(names, tensor.chunk(len(names)), strict=True))
    return given
