"""The original's OPT checkpoints to Hugging Face's names and back. Builds no model.

The original reads Hugging Face's OPT files and holds them as a GPT-2: query, key and value are one matrix `c_attn`
[3H, H], rows in that order, and the position table keeps its two unused first rows. What its Trainer writes has these
names, and its config.json GPT-2's (n_head, n_inner, …); its AutoLoader reads neither, only Hugging Face's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from flagai.errors import CheckpointError, ModelError
from flagai.models.legacy_bert import Converted

if TYPE_CHECKING:
    import torch

_NAMES: Final = {
    "wte.weight": "embed_tokens.weight",
    "wpe.weight": "embed_positions.weight",
    "project_in.weight": "project_in.weight",
    "project_out.weight": "project_out.weight",
    "ln_f.weight": "final_layer_norm.weight",
    "ln_f.bias": "final_layer_norm.bias",
}
_PARTS: Final = {
    "ln_1": "self_attn_layer_norm",
    "attn.c_proj": "self_attn.out_proj",
    "mlp.c_fc": "fc1",
    "mlp.c_proj": "fc2",
    "ln_2": "final_layer_norm",
}
_LAYER: Final = re.compile(r"^h\.(\d+)\.(.+)\.(weight|bias)$")
_THEIRS: Final = re.compile(r"^layers\.(\d+)\.(.+)\.(weight|bias)$")
_QKV: Final = ("q_proj", "k_proj", "v_proj")
_OFFSET: Final = 2
_BODY: Final = "model.decoder."
_HEAD: Final = "lm_head.weight"
_FIELDS: Final = {
    "ffn_dim": "n_inner",
    "hidden_size": "hidden_size",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "vocab_size": "vocab_size",
    "activation_function": "activation_function",
    "word_embed_proj_dim": "n_embd",
    "do_layer_norm_before": "do_layer_norm_before",
}
"""Hugging Face's words → those of the original's GPT-2"""
_ONLY_PLAIN: Final = {"enable_bias": True, "layer_norm_elementwise_affine": True, "_remove_final_layer_norm": False}


def is_opt(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> bool:
    """Whether a model under GPT-2's names is an OPT: its position table has two rows more than positions."""
    table = next((shape for name, shape in shapes.items() if name.endswith("wpe.weight")), None)
    positions = config.get("n_positions", config.get("max_position_embeddings"))
    return table is not None and isinstance(positions, int) and table[0] == positions + _OFFSET


def has_huggingface_names(names: Iterable[str]) -> bool:
    """Whether the names are Hugging Face's, with or without their prefixes."""
    return any(re.search(r"(^|\.)decoder\.layers\.0\.self_attn\.q_proj\.weight$", name) for name in names)


def to_huggingface(state: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> Converted:
    """A state dict under GPT-2's names (or Hugging Face's), and a config.json in either's words.

    Errors: `CheckpointError` where the tensors are no OPT, or contradict the configuration.
    """
    body: dict[str, torch.Tensor] = {}
    dropped: list[str] = []
    theirs = has_huggingface_names(state)
    for name, tensor in state.items():
        plain = name.removeprefix("module.")
        if theirs:
            found = {} if plain == _HEAD else {f"model.{plain.removeprefix('model.')}": tensor}
        else:
            found = _theirs(plain.removeprefix("transformer."), tensor)
        body |= found
        dropped += [] if found else [name]
    return Converted(kind="lm", config=config_to_huggingface(config, body), body=body, dropped=tuple(dropped))


def _theirs(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """A tensor under Hugging Face's names; {} for one that has no place there."""
    if name in _NAMES:
        return {_BODY + _NAMES[name]: tensor}
    match = _LAYER.match(name)
    if match is None:
        return {}
    layer, part, kind = match.groups()
    if part == "attn.c_attn":
        rows = tensor.chunk(3, dim=0)
        return {
            f"{_BODY}layers.{layer}.self_attn.{one}.{kind}": row.clone() for one, row in zip(_QKV, rows, strict=True)
        }
    return {f"{_BODY}layers.{layer}.{_PARTS[part]}.{kind}": tensor} if part in _PARTS else {}


def config_to_huggingface(config: Mapping[str, Any], body: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Hugging Face's configuration; sizes are those of the tensors.

    Errors: `CheckpointError` where config.json lacks what the tensors cannot tell, or contradicts them.
    """
    told = {new: config.get(new, config.get(old)) for new, old in _FIELDS.items()}
    words, positions = body.get(f"{_BODY}embed_tokens.weight"), body.get(f"{_BODY}embed_positions.weight")
    heads, first = told["num_attention_heads"], body.get(f"{_BODY}layers.0.fc1.weight")
    if words is None or positions is None or first is None or not isinstance(heads, int) or heads < 1:
        lacking = "no number of heads in config.json" if first is not None else "no layer of an OPT among the tensors"
        raise CheckpointError(lacking, expected="config.json and weights of an OPT of the original FlagAI")
    layers = {int(match[1]) for name in body if (match := _THEIRS.match(name.removeprefix(_BODY)))}
    sizes = {
        "vocab_size": words.shape[0],
        "word_embed_proj_dim": words.shape[1],
        "hidden_size": first.shape[1],
        "ffn_dim": first.shape[0],
        "max_position_embeddings": positions.shape[0] - _OFFSET,
        "num_hidden_layers": len(layers),
    }
    wrong = [
        f"{name} {told[name]} (the tensors: {size})" for name, size in sizes.items() if told[name] not in (size, None)
    ]
    before = f"{_BODY}final_layer_norm.weight" in body
    if told["do_layer_norm_before"] not in (before, None):
        wrong.append(f"do_layer_norm_before {told['do_layer_norm_before']}")
    if wrong or sizes["hidden_size"] % heads:
        raise CheckpointError(
            f"config.json has {', '.join(wrong) or f'{heads} heads'}",
            fix="config.json and weights must be of one model",
        )
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in config}
    return {
        "model_type": "opt",
        "architectures": ["OPTForCausalLM"],
        **sizes,
        "num_attention_heads": heads,
        "activation_function": told["activation_function"] or "relu",
        "do_layer_norm_before": before,
        **ends,
    }


def modern_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Hugging Face's configuration from a config.json in either's words. Errors: `ModelError` for a missing size."""
    told = {new: config.get(new, config.get(old)) for new, old in _FIELDS.items()}
    if lacking := [name for name, value in told.items() if value is None]:
        raise ModelError(f"no {', '.join(lacking)} in config.json", expected="the settings of an OPT")
    return {**told, "model_type": "opt"}


def to_legacy(
    state: Mapping[str, torch.Tensor], config: Mapping[str, Any], *, native: bool
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The original's state dict and config.json from Hugging Face's.

    Args:
        native: under GPT-2's names, for the original's Trainer and `load_state_dict`; otherwise under Hugging Face's,
            key and value in front of the query, for its AutoLoader.
    Errors: `ModelError` for what the original cannot express.
    """
    if wrong := [name for name, value in _ONLY_PLAIN.items() if config.get(name, value) != value]:
        raise ModelError(
            f"the original has no OPT with another {', '.join(wrong)}",
            expected="an OPT as published",
            fix="save the model as a Hugging Face folder",
        )
    plain = {name.removeprefix(_BODY): tensor for name, tensor in state.items() if name != _HEAD}
    written = {name: config.get(name) for name in _FIELDS} | {"checkpoint_activations": False}
    if native:
        return _ours(plain), written
    return {f"decoder.{name}": plain[name] for name in sorted(plain, key=_rank)}, written


def _rank(name: str) -> tuple[int, bool]:
    """Layer by layer, queries last: the original joins the three with what it met when it meets the query."""
    match = _THEIRS.match(name)
    return (-1 if match is None else int(match[1])), ".q_proj." in name


def _ours(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    import torch

    names, parts = {new: old for old, new in _NAMES.items()}, {new: old for old, new in _PARTS.items()}
    out: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        match = _THEIRS.match(name)
        if match is None:
            out[f"transformer.{names[name]}"] = tensor
            continue
        layer, part, kind = match.groups()
        if part in parts:
            out[f"transformer.h.{layer}.{parts[part]}.{kind}"] = tensor
        elif part == "self_attn.q_proj":
            rows = [state[name.replace("q_proj", one)] for one in _QKV]
            out[f"transformer.h.{layer}.attn.c_attn.{kind}"] = torch.cat(rows)
    return out | {_HEAD: out["transformer.wte.weight"].clone()}
