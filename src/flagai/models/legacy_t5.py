"""The original's T5 checkpoints to Hugging Face's meaning and back: the names are the same. Builds no model.

What differs is the last step: the original's output layer is a matrix of its own, and nothing is scaled in front of
it. Hugging Face's T5 with one matrix for input and output scales by d_model**-0.5: written back, that factor goes into
the output matrix. The bounds of relative positions are 128 in the original, whatever config.json says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from flagai.errors import CheckpointError, ModelError
from flagai.models.legacy_bert import Converted

if TYPE_CHECKING:
    import torch

_WORDS: Final = "shared.weight"
_HEAD: Final = "lm_head.weight"
_COPIES: Final = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_SIGN: Final = "decoder.block.0.layer.1.EncDecAttention.q.weight"
_DISTANCE: Final = 128
_FIELDS: Final = (
    "vocab_size",
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_decoder_layers",
    "num_heads",
    "relative_attention_num_buckets",
    "dropout_rate",
    "layer_norm_epsilon",
    "initializer_factor",
    "feed_forward_proj",
    "is_encoder_decoder",
    "use_cache",
    "pad_token_id",
    "eos_token_id",
    "decoder_start_token_id",
)
_NEEDED: Final = ("d_kv", "d_ff", "num_layers", "num_heads", "relative_attention_num_buckets")
_OF_V2: Final = ("checkpoint_activations", "tie_word_embeddings", "relative_attention_max_distance", "auto_map")


def is_t5(names: Iterable[str], config: Mapping[str, Any]) -> bool:
    """Whether names and config.json are those of a T5 of the original: only its config.json lacks the model's type, or
    has `checkpoint_activations`.
    """
    theirs = config.get("model_type", "t5") in ("t5", "mt5")
    marked = "model_type" not in config or "checkpoint_activations" in config
    return theirs and marked and any(name.removeprefix("module.") == _SIGN for name in names)


def to_huggingface(
    state: Mapping[str, torch.Tensor], config: Mapping[str, Any], special: Mapping[str, int] | None = None
) -> Converted:
    """A state dict of the original and its config.json.

    Args:
        special: `pad_token_id`, `eos_token_id` and `decoder_start_token_id` of the vocabulary, where it is known.
    Errors: `CheckpointError` where config.json lacks sizes, or contradicts the tensors.
    """
    body = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    words = body.get(_WORDS)
    if lacking := [*([] if words is not None else [_WORDS]), *(name for name in _NEEDED if name not in config)]:
        raise CheckpointError(f"no {', '.join(lacking)}", expected="config.json and weights of a T5 of the original")
    assert words is not None
    if config.get("d_model", words.shape[1]) != words.shape[1]:
        raise CheckpointError(
            f"config.json has d_model {config['d_model']}, the tensors are {words.shape[1]} wide",
            fix="config.json and weights must be of one model",
        )
    kept = {name: value for name, value in config.items() if name not in _OF_V2}
    made = {
        **kept,
        "model_type": config.get("model_type", "t5"),
        "architectures": [f"{'MT5' if config.get('model_type') == 'mt5' else 'T5'}ForConditionalGeneration"],
        "vocab_size": words.shape[0],
        "d_model": words.shape[1],
        "relative_attention_max_distance": _DISTANCE,
        "is_encoder_decoder": True,
        # means to transformers: do not scale in front of the output layer
        "tie_word_embeddings": _HEAD not in body,
        **(special or {}),
    }
    return Converted(kind="lm", config=made, body=body)


def modern_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Hugging Face's configuration from the original's config.json alone. Errors: `ModelError` for a missing size."""
    if lacking := [name for name in ("vocab_size", "d_model", *_NEEDED) if name not in config]:
        raise ModelError(f"no {', '.join(lacking)} in config.json", expected="the sizes of a T5")
    kept = {name: value for name, value in config.items() if name not in _OF_V2}
    return {
        **kept,
        "model_type": config.get("model_type", "t5"),
        "relative_attention_max_distance": _DISTANCE,
        "tie_word_embeddings": False,
    }


def to_legacy(
    state: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The original's state dict and config.json from Hugging Face's.

    Errors: `ModelError` for what the original cannot express.
    """
    distance = config.get("relative_attention_max_distance", _DISTANCE)
    if distance != _DISTANCE:
        raise ModelError(
            f"relative_attention_max_distance is {distance}",
            expected=f"{_DISTANCE}: the original has no other",
            fix="save the model as a Hugging Face folder",
        )
    out = dict(state)
    words = out[_WORDS]
    out |= {name: words.clone() for name in _COPIES}
    head = out.get(_HEAD, words)
    scaled = config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True))
    out[_HEAD] = head * config["d_model"] ** -0.5 if scaled else head.clone()
    written = {name: config[name] for name in _FIELDS if config.get(name) is not None}
    return out, written | {"checkpoint_activations": False}
