"""Whether a model is exactly what the lean loop knows. Knows classes and settings; it reads no weights.

What is unknown, changed by hand or wrapped goes the general way: a wrong guess would be a wrong answer in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from flagai.generate.lean.families import ACTIVATIONS, READERS

_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)
_ATTENTION: Final = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "flagai_packed")
_TORCH: Final = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.Dropout, nn.ModuleList, nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh)
_SHARED: Final = ("transformers.activations", "transformers.pytorch_utils", "flagai.models.dropout")
_HARMLESS: Final = ("transformers.utils.output_capturing", "flagai.models.packing")
"""modules whose hooks change no number: transformers' where hidden states were once asked for, and ours that leave
pads out (every predictor and trainer hangs them in)"""


def supports(model: Any) -> bool:
    """Whether `LeanWriter` gives the scores that the model's own forward gives."""
    name = type(model).__name__
    if name not in READERS or not type(model).__module__.startswith(("transformers.models.", "flagai.models.glm.")):
        return False
    settings = _SETTINGS.get(name, _plain)
    return settings(model.config) and _attention_known(model) and _tensors_plain(model) and _untouched(model)


def _untouched(model: nn.Module) -> bool:
    own = type(model).__module__
    return all(_known(module, own) and not _hooked(module) for module in model.modules())


def _known(module: nn.Module, own: str) -> bool:
    kind = type(module)
    return kind in _TORCH or kind.__module__ == own or kind.__module__ in _SHARED


def _hooked(module: nn.Module) -> bool:
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    foreign = [hook for hook in hooks if getattr(hook, "__module__", "") not in _HARMLESS]
    return bool(foreign) or "forward" in vars(module)


def _tensors_plain(model: Any) -> bool:
    """One dtype, one device, all there, none of a special kind (quantised, distributed)."""
    tensors = list(model.parameters())
    kinds = {(one.dtype, one.device) for one in tensors}
    if len(kinds) != 1 or not all(type(one) is nn.Parameter and type(one.data) is Tensor for one in tensors):
        return False
    dtype, device = kinds.pop()
    # In half precision T5's forward clamps what overflows.
    clamped = dtype == torch.float16 and hasattr(model.config, "relative_attention_num_buckets")
    return dtype in _DTYPES and device.type != "meta" and not clamped


def _attention_known(model: Any) -> bool:
    name = getattr(model.config, "_attn_implementation", None)
    return name is None or name in _ATTENTION


def _plain(config: Any) -> bool:
    return True


def _gpt2(config: Any) -> bool:
    return config.activation_function in ACTIVATIONS and not config.add_cross_attention


def _by_activation(config: Any) -> bool:
    return config.activation_function in ACTIVATIONS


def _llama(config: Any) -> bool:
    rope = getattr(config, "rope_parameters", None) or {}
    layers = set(getattr(config, "layer_types", None) or ("full_attention",))
    default = rope.get("rope_type") == "default" and float(rope.get("partial_rotary_factor", 1.0)) == 1.0
    return default and layers == {"full_attention"} and config.hidden_act in ACTIVATIONS


def _t5(config: Any) -> bool:
    return config.dense_act_fn in ACTIVATIONS


def _bert(config: Any) -> bool:
    known = getattr(config, "position_embedding_type", "absolute") in (None, "absolute")
    return known and config.hidden_act in ACTIVATIONS and not config.is_decoder and not config.add_cross_attention


_SETTINGS: Final[dict[str, Callable[[Any], bool]]] = {
    "GPT2LMHeadModel": _gpt2,
    "OPTForCausalLM": _by_activation,
    "LlamaForCausalLM": _llama,
    "Qwen2ForCausalLM": _llama,
    "T5ForConditionalGeneration": _t5,
    "MT5ForConditionalGeneration": _t5,
    "BartForConditionalGeneration": _by_activation,
    "BertForMaskedLM": _bert,
    "RobertaForMaskedLM": _bert,
}
