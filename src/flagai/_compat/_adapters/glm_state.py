"""Tensors of today's GLM under the original's names, and back. Knows no file and no forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from flagai.errors import CheckpointError
from flagai.models.glm.layouts import bare_name, fused_name, is_head, listed, our_names

_HEADS: Final = {"dense.": "pool_layer.", "out_proj.": "multichoice_head."}
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
    return {_old_name(name): tensor for name, tensor in state.items()}


def fill(model: Any, state: Mapping[str, Any], *, strict: bool, where: str) -> None:
    """Take weights under the original's names, Hugging Face's or ours.

    Args:
        strict: whether a classifier's layers must be there too, and nothing else.

    Raises:
        CheckpointError: a tensor of the body is missing or of another shape.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if name != _TIED}
    given = _ours(state)
    missing = [name for name in own if name not in given and (strict or not is_head(name))]
    extra = [name for name in given if name not in own] if strict else []
    wrong = [
        f"{name} is {list(tensor.shape)}, not {list(own[name].shape)}"
        for name, tensor in given.items()
        if name in own and tensor.shape != own[name].shape
    ]
    problems = {"are missing": missing, "have no place": extra, "have another shape": wrong}
    if found := "; ".join(f"{len(names)} tensors {what}: {listed(names)}" for what, names in problems.items() if names):
        raise CheckpointError(found, where=where, expected="the weights of this GLM")
    model.load_state_dict({name: tensor for name, tensor in given.items() if name in own}, strict=False)


def _ours(state: Mapping[str, Any]) -> dict[str, Tensor]:
    given: dict[str, Tensor] = {}
    for name, tensor in state.items():
        bare = bare_name(name)
        if bare is None or name.endswith(_TIED) or not isinstance(tensor, Tensor):
            continue
        names = our_names(bare)
        given |= dict(zip(names, tensor.chunk(len(names)), strict=True))
    return given


def _old_name(name: str) -> str:
    for new, old in _HEADS.items():
        if name.startswith(new):
            return old + name.removeprefix(new)
    return f"model.{name}"
