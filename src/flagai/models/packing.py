"""Padding-free training and prediction around a Hugging Face model: the stack of layers computes real tokens only.

It does not know what is trained, which head stands on the model, or how batches were chosen.

A caller passes an ordinary padded batch and gets `last_hidden_state` as [batch, length, hidden]; places of pads hold
zeros, where the padded path leaves values that mean nothing. So heads that look at real tokens give equal results, and
a loss that a head takes over all places of a row (Hugging Face's question answering) does not. What cannot be packed
(rows padded on the left or in the middle, an empty row, a cache, wanted attention weights, tracing) takes the padded
path by itself. A causal model that was not asked for a cache returns none while packed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from flagai.errors import ModelError
from flagai.models.packing_attention import NAME
from flagai.models.packing_plan import Plan, make_plan

# Family → the module inside the base model whose output is padded again: the one before a pooler that takes the first
# token. None: the base model's own output. Each family here is compared with its padded path in the tests.
_FAMILIES: Final[Mapping[str, str | None]] = {
    "albert": "encoder",
    "bert": "encoder",
    "camembert": "encoder",
    "distilbert": "transformer",
    "electra": "encoder",
    "ernie": "encoder",
    "flagai_glm": None,
    "gpt2": None,
    "modernbert": None,
    "roberta": "encoder",
    "xlm-roberta": "encoder",
}
_STATE: Final = "_flagai_packing"
_PLAN: Final = "flagai_packed"
_PER_TOKEN: Final = ("input_ids", "token_type_ids", "task_type_ids", "inputs_embeds")
_UNPACKABLE: Final = ("past_key_values", "encoder_hidden_states", "encoder_attention_mask", "use_cache")


@dataclass(frozen=True, kw_only=True)
class _State:
    handles: tuple[RemovableHandle, ...]
    attention: str


def supports(model: nn.Module) -> bool:
    """Whether `enable` can pack this model (a Hugging Face model, or a module around one, PEFT included)."""
    return not why_not(model)


def why_not(model: nn.Module) -> str:
    """Why `supports` is false, in a sentence; empty where it is true."""
    bases = _bases(model)
    if not bases:
        return f"{type(model).__name__} contains no Hugging Face model"
    return next(filter(None, map(_why_not_base, bases)), "")


def enable(model: nn.Module) -> bool:
    """Packs every Hugging Face base model inside `model`; parameters, `state_dict` and saved files do not change.

    Returns:
        Whether the model is packed now. False: it stays on the padded path, and `why_not(model)` says why.
    """
    if not supports(model):
        return False
    if all(_state(base) is not None or _attach(base) for base in _bases(model)):
        return True
    disable(model)
    return False


def disable(model: nn.Module) -> None:
    """Takes packing off again; a model that is not packed is left as it is."""
    for base in _bases(model):
        state = _state(base)
        if state is not None:
            for handle in state.handles:
                handle.remove()
            base.set_attn_implementation(state.attention)
            delattr(base, _STATE)


def is_enabled(model: nn.Module) -> bool:
    """Whether every Hugging Face base model inside `model` is packed."""
    bases = _bases(model)
    return bool(bases) and all(_state(base) is not None for base in bases)


@contextmanager
def packed(model: nn.Module) -> Iterator[bool]:
    """Packs `model` for the length of a `with` block, and leaves it as it was; gives what `enable` returns."""
    before = is_enabled(model)
    try:
        yield enable(model)
    finally:
        if not before:
            disable(model)


def _bases(model: nn.Module) -> list[PreTrainedModel]:
    found = (m for m in model.modules() if isinstance(m, PreTrainedModel) and m.base_model is m)
    # A base model inside another (an encoder of an encoder-decoder) belongs to that one.
    bases: list[PreTrainedModel] = []
    inside: set[int] = set()
    for base in found:
        if id(base) not in inside:
            bases.append(base)
            inside.update(map(id, base.modules()))
    return bases


def _why_not_base(base: PreTrainedModel) -> str:
    family = str(getattr(base.config, "model_type", ""))
    if not getattr(base, "_supports_sdpa", False):
        return f"{family!r} models compute attention in their own way (no SDPA), so tokens cannot be packed"
    if family not in _FAMILIES:
        return f"packing has not been proved for {family!r} models; it is for {', '.join(_FAMILIES)}"
    stack = _FAMILIES[family]
    if stack is not None and not isinstance(getattr(base, stack, None), nn.Module):
        return f"this {type(base).__name__} has no part named {stack!r}"
    if getattr(base.config, "attend_to_pads", False):
        return "attend_to_pads is set, and a packed row has no pads"
    if getattr(base.config, "chunk_size_feed_forward", 0):
        return "chunk_size_feed_forward cuts rows into equal parts, which a packed row has not"
    return ""


def _state(base: nn.Module) -> _State | None:
    return getattr(base, _STATE, None)


def _attach(base: PreTrainedModel) -> bool:
    """Whether transformers took our attention function; it only warns where it cannot read a class's source."""
    attention = getattr(base.config, "_attn_implementation", None)
    if attention in (None, NAME):  # NAME: another model shares this configuration object
        attention = "sdpa"
    base.set_attn_implementation(NAME)
    if base.config._attn_implementation != NAME:
        return False
    stack = _FAMILIES[base.config.model_type]
    before = base.register_forward_pre_hook(_pack_inputs, with_kwargs=True)
    handles = [before, base.register_forward_hook(_unpack_recorded, with_kwargs=True)]
    target = base if stack is None else getattr(base, stack)
    # Hooks run in order of registration, on the base model before the one that pads recorded hidden states.
    handles.insert(1, target.register_forward_hook(_unpack_last, with_kwargs=True, prepend=stack is None))
    setattr(base, _STATE, _State(handles=tuple(handles), attention=attention))
    return True


def _pack_inputs(
    base: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    names = _parameters(type(base))
    if len(args) > len(names):
        return None  # the model itself says what is wrong
    call = {**dict(zip(names, args, strict=False)), **kwargs}
    plan = _plan(base, call)
    if plan is None:
        return None
    positions = _positions(base, call, plan)
    for name in _PER_TOKEN:
        if call.get(name) is not None:
            call[name] = plan.pack(call[name])
    call["position_ids"] = _pack_positions(plan, positions)
    # transformers hands a four-dimensional mask through; one without elements fails loudly if attention ever used it.
    call["attention_mask"] = torch.empty(1, 1, 1, 0, dtype=torch.bool, device=positions.device)
    call[_PLAN] = plan
    if "use_cache" in names:
        call["use_cache"] = False
    return (), call


@lru_cache(maxsize=64)
def _parameters(kind: type[nn.Module]) -> tuple[str, ...]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(kind.forward).parameters.values()
    return tuple(p.name for p in parameters if p.kind in kinds)[1:]


def _plan(base: PreTrainedModel, call: Mapping[str, Any]) -> Plan | None:
    """The plan for this call, None where it must take the padded path."""
    if base.config._attn_implementation != NAME:  # somebody has chosen another attention since
        return None
    mask, positions = call.get("attention_mask"), call.get("position_ids")
    tokens = call.get("input_ids") if call.get("input_ids") is not None else call.get("inputs_embeds")
    if not isinstance(mask, Tensor) or not isinstance(tokens, Tensor) or mask.shape != tokens.shape[:2]:
        return None
    if any(call.get(name) is not None and call[name] is not False for name in _UNPACKABLE):
        return None
    if not _outputs_can_be_padded(base, call):
        return None
    if positions is not None and positions.dim() != (3 if base.config.model_type == "flagai_glm" else 2):
        return None
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return None
    return make_plan(mask)


def _outputs_can_be_padded(base: PreTrainedModel, call: Mapping[str, Any]) -> bool:
    def option(name: str, default: bool) -> Any:
        value = call.get(name)
        return getattr(base.config, name, default) if value is None else value

    return not option("output_attentions", False) and option("return_dict", True) is not False


def _positions(base: PreTrainedModel, call: Mapping[str, Any], plan: Plan) -> Tensor:
    """The positions [rows, width] that the padded path would use."""
    given, ids, embedded = (call.get(name) for name in ("position_ids", "input_ids", "inputs_embeds"))
    if given is not None:
        return given.expand(plan.rows, *given.shape[1:])
    tokens = ids if ids is not None else embedded
    embeddings: Any = getattr(base, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):  # RoBERTa counts tokens that are not the pad
        if ids is None:
            return embeddings.create_position_ids_from_inputs_embeds(embedded, embeddings.padding_idx)
        return embeddings.create_position_ids_from_input_ids(ids, embeddings.padding_idx)
    assert tokens is not None
    return torch.arange(plan.width, device=tokens.device).expand(plan.rows, plan.width)


def _pack_positions(plan: Plan, positions: Tensor) -> Tensor:
    """[rows, width] to [1, T]; a GLM's two kinds of position [rows, 2, width] to [1, 2, T]."""
    if positions.dim() == 2:
        return plan.pack(positions)
    return plan.pack(positions.transpose(1, 2)).transpose(1, 2)


def _unpack_last(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    plan = kwargs.get(_PLAN)
    if plan is not None:
        if tuple(output.last_hidden_state.shape[:2]) != (1, plan.tokens):
            raise ModelError(f"{type(module).__name__} changed the length of a packed row", fix="train without packing")
        output.last_hidden_state = plan.unpack(output.last_hidden_state)
    return output


def _unpack_recorded(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Pads the hidden states that `output_hidden_states` asked for; the last may be padded already."""
    plan = kwargs.get(_PLAN)
    states = getattr(output, "hidden_states", None)
    if plan is not None and states is not None:
        there = (plan.rows, plan.width)
        output.hidden_states = tuple(
            state if state is None or tuple(state.shape[:2]) == there else plan.unpack(state) for state in states
        )
    return output
