"""State dicts of the original and of Hugging Face into a model of `bert.py`. Knows no file and no loss."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flagai.errors import CheckpointError
from flagai.models import legacy_bert
from flagai.models.checkpoints import layout_of
from flagai.models.headed import HeadedModel

_SHOWN = 8
_OUTPUT = "cls.predictions.decoder.weight"


def expressible(config: Mapping[str, Any]) -> bool:
    """Whether the original can write a model of this Hugging Face configuration."""
    return config.get("model_type") == "bert" and config["intermediate_size"] == 4 * config["hidden_size"]


def modern_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A Hugging Face configuration from the original's config.json (or from one that is Hugging Face's already)."""
    if "model_type" in raw:
        return dict(raw)
    kept = {key: value for key, value in raw.items() if key not in ("layernorm_epsilon", "class_num", "inner_dim")}
    return {
        **kept,
        "model_type": "bert",
        "intermediate_size": 4 * raw["hidden_size"],
        "layer_norm_eps": raw.get("layernorm_epsilon", raw.get("layer_norm_eps", 1e-6)),
        "pad_token_id": 0,
        **({"num_labels": raw["class_num"]} if raw.get("class_num") else {}),
    }


@torch.no_grad()
def fill(model: Any, state: dict[str, Tensor], *, strict: bool, where: str) -> None:
    """Copy a state dict into a model of `bert.py`.

    Raises:
        CheckpointError: a tensor is missing (with `strict` any, else one of the body) or has another shape.
    """
    inner = model.flagai_model
    named = _from_original(inner, state) if layout_of(state) == "flagai" else _from_huggingface(inner, state)
    _untie(inner, named)
    own = inner.state_dict()
    missing = [name for name in own if name not in named and (strict or not _is_head(inner, name))]
    wrong = [name for name in own if name in named and named[name].shape != own[name].shape]
    if not strict:
        wrong = [name for name in wrong if not _is_head(inner, name)]
    if missing or wrong:
        raise CheckpointError(
            f"{len(missing)} tensors are missing ({', '.join(missing[:_SHOWN])}), "
            f"{len(wrong)} have another shape ({', '.join(wrong[:_SHOWN])})",
            where=where,
            expected=f"the weights of a {type(model).__name__} of this size",
        )
    for name, tensor in own.items():
        if name in named and named[name].shape == tensor.shape:
            tensor.copy_(named[name])
    if layout_of(state) == "flagai":
        model.keep_unread(state)


def _untie(inner: Any, named: Mapping[str, Tensor]) -> None:
    """Give the output layer of a masked language model weights of its own where the checkpoint has other ones there."""
    layer = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    given = named.get(_OUTPUT)
    if layer is None or given is None or layer.weight is not inner.get_input_embeddings().weight:
        return
    if given.data_ptr() == layer.weight.data_ptr():  # the checkpoint has none: `named` holds the model's own
        return
    words = next((tensor for name, tensor in named.items() if name.endswith("word_embeddings.weight")), given)
    if words.shape != given.shape or not torch.equal(words, given):
        layer.weight = torch.nn.Parameter(layer.weight.detach().clone())


def _from_original(inner: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    heads = {"num_attention_heads": inner.config.num_attention_heads}
    converted = legacy_bert.to_huggingface(state, heads)
    named = _from_huggingface(inner, converted.body)
    if isinstance(inner, HeadedModel):
        scale = getattr(inner.head, "transition_scale", 1.0)
        for name, tensor in converted.head.items():
            named[f"head.{name}"] = tensor / scale if name == "transitions" else tensor
        if converted.kind == "ner-crf" and "transitions" in converted.head:
            for end in ("start_transitions", "end_transitions"):
                named[f"head.{end}"] = torch.zeros(converted.head["transitions"].shape[0])
    return named


def _from_huggingface(inner: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names with or without the base model's prefix → the names of `inner`."""
    own = inner.state_dict()
    body = inner.body if isinstance(inner, HeadedModel) else inner
    prefix = f"{body.base_model_prefix}."
    named: dict[str, Tensor] = {}
    for name, tensor in state.items():
        plain = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))
        bare = plain.removeprefix(prefix)
        for candidate in (plain, bare, prefix + bare, f"body.{plain}", f"body.{bare}", f"body.{prefix}{bare}"):
            if candidate in own:
                named[candidate] = tensor
                break
    if "cls.predictions.bias" in named:  # one bias under two names
        named.setdefault("cls.predictions.decoder.bias", named["cls.predictions.bias"])
    if _OUTPUT in own:  # tied to the embedding
        named.setdefault(_OUTPUT, own[_OUTPUT])
    return named


def _is_head(inner: Any, name: str) -> bool:
    if name.startswith("head."):
        return True
    body = inner.body if isinstance(inner, HeadedModel) else inner
    plain = name.removeprefix("body.") if body is not inner else name
    return "pooler." in plain or (body.base_model is not body and not plain.startswith(f"{body.base_model_prefix}."))
