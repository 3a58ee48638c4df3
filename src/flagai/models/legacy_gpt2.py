"""The original's GPT-2 and CPM checkpoints to Hugging Face's names and orientation, and back. Builds no model.

The names are Hugging Face's. What differs:

- what the original's Trainer wrote has its four matrices of a layer as `nn.Linear` has them, [out, in]; Hugging Face's
  Conv1D, and the files that the original's AutoLoader reads, have [in, out]. The fused `c_attn` [3H, H] or [H, 3H]
  tells which, for the square ones of a file as well;
- scores come from the word embedding; `lm_head.weight` is there and unused;
- dropout is 0.1 and epsilon 1e-5, whatever config.json says; config.json names no end of text;
- a token with id 0 is never attended: `attention_mask` from a padding id of 0 is the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from flagai.errors import CheckpointError, ModelError
from flagai.models.legacy_bert import Converted

if TYPE_CHECKING:
    import torch

_FUSED: Final = re.compile(r"(?:^|\.)h\.0\.attn\.c_attn\.weight$")
_MATRIX: Final = re.compile(r"\.h\.\d+\.(attn\.(c_attn|c_proj)|mlp\.(c_fc|c_proj))\.weight$")
_BUFFER: Final = re.compile(r"\.attn\.(masked_)?bias$")
_LAYER: Final = re.compile(r"^transformer\.h\.(\d+)\.")
_HEAD: Final = "lm_head.weight"
_WORDS: Final = "transformer.wte.weight"
_POSITIONS: Final = "transformer.wpe.weight"
_EPSILON: Final = 1e-5
_DROPOUTS: Final = ("attn_pdrop", "embd_pdrop", "resid_pdrop")
_UNKNOWN: Final = ("scale_attn_by_inverse_layer_idx", "add_cross_attention")
"""settings of Hugging Face's that change the result and that the original has not"""


def is_native(shapes: Mapping[str, tuple[int, ...]]) -> bool | None:
    """Whether matrices are [out, in], as the original's Trainer writes them; None where there is no layer of GPT-2."""
    fused = next((shape for name, shape in shapes.items() if _FUSED.search(name)), None)
    return None if fused is None else fused[0] == 3 * fused[1]


def to_huggingface(
    state: Mapping[str, torch.Tensor], config: Mapping[str, Any], special: Mapping[str, int] | None = None
) -> Converted:
    """A state dict of the original, in either orientation, and its config.json.

    Args:
        special: `pad_token_id`, `bos_token_id`, `eos_token_id` of the vocabulary, where it is known.
    Errors: `CheckpointError` where the tensors contradict the configuration, or are not all there.
    """
    native = is_native({name: tuple(tensor.shape) for name, tensor in state.items()})
    if native is None:
        raise CheckpointError("no layer of a GPT-2 among the tensors", expected="a GPT-2 of the original FlagAI")
    named = {_full_name(name): tensor for name, tensor in state.items()}
    body = {
        name: tensor.t().contiguous() if native and _MATRIX.search(name) else tensor
        for name, tensor in named.items()
        if name != _HEAD and not _BUFFER.search(name)
    }
    dropped = tuple(sorted(named.keys() - body.keys()))
    return Converted(kind="lm", config=config_to_huggingface(config, body, special), body=body, dropped=dropped)


def _full_name(name: str) -> str:
    plain = name.removeprefix("module.")
    return plain if plain.startswith(("transformer.", "lm_head.")) else f"transformer.{plain}"


def config_to_huggingface(
    config: Mapping[str, Any], body: Mapping[str, torch.Tensor], special: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Hugging Face's configuration; sizes are those of the tensors.

    Errors: `CheckpointError` where config.json lacks what the tensors cannot tell, or contradicts them.
    """
    words, positions = body.get(_WORDS), body.get(_POSITIONS)
    heads = config.get("n_head")
    if words is None or positions is None or not isinstance(heads, int) or heads < 1:
        lacking = "no n_head in config.json" if words is not None and positions is not None else "no embeddings"
        raise CheckpointError(lacking, expected="config.json and weights of a GPT-2 of the original FlagAI")
    hidden = words.shape[1]
    wanted = {"n_embd": hidden, "hidden_size": hidden, "n_positions": positions.shape[0], "do_layer_norm_before": True}
    wrong = [f"{name} {config[name]}" for name, value in wanted.items() if config.get(name, value) not in (value, None)]
    if wrong or hidden % heads:
        raise CheckpointError(
            f"config.json has {', '.join([*wrong, f'{heads} heads'])}; the tensors are {hidden} wide and have "
            f"{positions.shape[0]} positions",
            fix="config.json and weights must be of one model",
        )
    layers = {int(match[1]) for name in body if (match := _LAYER.match(name))}
    inner = body["transformer.h.0.mlp.c_fc.weight"].shape[1]
    kept = {name: config[name] for name in ("initializer_range",) if name in config}
    return {
        **kept,
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": config.get("activation_function", "gelu_new"),
        "vocab_size": words.shape[0],
        "n_embd": hidden,
        "n_head": heads,
        "n_layer": len(layers),
        "n_positions": positions.shape[0],
        "n_inner": None if inner == 4 * hidden else inner,
        "layer_norm_epsilon": _EPSILON,
        # transformers' own default, 50256, lies beyond most other vocabularies
        "bos_token_id": None,
        "eos_token_id": None,
        **(special or {}),
    }


def modern_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Hugging Face's configuration from the original's config.json alone. Errors: `ModelError` for a missing size."""
    names = ("vocab_size", "n_embd", "n_head", "n_layer", "n_positions")
    if lacking := [name for name in names if not isinstance(config.get(name), int)]:
        raise ModelError(f"no {', '.join(lacking)} in config.json", expected="the sizes of a GPT-2")
    kept = {name: config[name] for name in (*names, "initializer_range") if name in config}
    return {
        **kept,
        "model_type": "gpt2",
        "n_inner": config.get("n_inner"),
        "activation_function": config.get("activation_function", "gelu_new"),
        "layer_norm_epsilon": _EPSILON,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def to_legacy(
    state: Mapping[str, torch.Tensor], config: Mapping[str, Any], *, native: bool
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The original's state dict and config.json from Hugging Face's.

    Args:
        native: [out, in], for the original's Trainer and `load_state_dict`; otherwise [in, out], for its AutoLoader.
    Errors: `ModelError` for what the original cannot express.
    """
    _check(config)
    out = {
        name: tensor.t().contiguous() if native and _MATRIX.search(name) else tensor
        for name, tensor in ((_full_name(name), tensor) for name, tensor in state.items())
        if name != _HEAD and not _BUFFER.search(name)
    }
    out[_HEAD] = out[_WORDS].clone()
    names = ("activation_function", "n_head", "n_embd", "n_layer", "n_positions", "vocab_size", "n_inner")
    return out, {**{name: config.get(name) for name in names}, "checkpoint_activations": False}


def _check(config: Mapping[str, Any]) -> None:
    wrong = [name for name in _UNKNOWN if config.get(name)]
    if not config.get("scale_attn_weights", True):
        wrong.append("scale_attn_weights: false")
    if config.get("layer_norm_epsilon", _EPSILON) != _EPSILON:
        wrong.append(f"layer_norm_epsilon {config['layer_norm_epsilon']}")
    if wrong:
        raise ModelError(
            f"the original has no {', '.join(wrong)}",
            expected=f"a plain GPT-2 with an epsilon of {_EPSILON}",
            fix="save the model as a Hugging Face folder",
        )
