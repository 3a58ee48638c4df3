"""A model's forward with logits of chosen tokens alone: a vocabulary at every token of a prompt is waste.

It knows no family: the input of the output layer is thinned out by a hook that lasts for one call. What stands in
front of that layer and behind it works on each token by itself in all families.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from flagai.errors import ModelError

KEEP: Final = "logits_to_keep"
"""the input that says which: bool [B, L] over the tokens whose logits the model gives"""


def call_model(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """`model(**inputs)`; with a bool `logits_to_keep` the logits are [N, V] of those N tokens, in reading order.

    Models that take such a mask themselves (GLM) get it as it is.

    Errors: `ModelError` for a model without an output layer over its vocabulary.
    """
    keep = inputs.get(KEEP)
    if not isinstance(keep, Tensor) or keep.dtype != torch.bool or _takes_mask(model):
        return model(**inputs)
    getter: Any = getattr(model, "get_output_embeddings", None)
    layer = getter() if getter is not None else None
    if layer is None:
        raise ModelError(f"{type(model).__name__} has no output layer over its vocabulary", expected="a language model")
    # In front of hooks that divide the layer: what they are given is whole.
    hook = layer.register_forward_pre_hook(lambda _, hidden: (hidden[0][keep], *hidden[1:]), prepend=True)
    try:
        return model(**{name: value for name, value in inputs.items() if name != KEEP})
    finally:
        hook.remove()


def _takes_mask(model: Any) -> bool:
    return getattr(getattr(model, "config", None), "model_type", "") == "flagai_glm"
