"""Which writer a model gets: chosen by its configuration and its head. Knows families by name and no search."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from flagai.errors import ConfigError, ModelError
from flagai.generate.writers.base import Writer
from flagai.models.families import start_of

if TYPE_CHECKING:
    from flagai.models.glm.commands import Commands

_BIDIRECTIONAL: Final = ("bert", "roberta", "xlm-roberta", "camembert", "ernie")
"""encoders that read a prompt both ways and write as UniLM does"""
_T5: Final = ("t5", "mt5", "umt5")
_ENCODER_DECODERS: Final = (
    *_T5,
    *("bart", "mbart", "plbart", "pegasus", "marian", "blenderbot", "blenderbot-small"),
)
"""relative positions, or a table of them that `Seq2SeqWriter` knows how to ask"""
_ATTENTION: Final = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
_SIZES: WeakKeyDictionary[Any, tuple[int, int]] = WeakKeyDictionary()
"""(tokens, one more than the largest id) of tokenizers that were looked at"""


def make_writer(
    model: Any,
    *,
    tokenizer: Any = None,
    end_ids: Sequence[int] | None = None,
    commands: Commands | None = None,
    fast: bool = True,
) -> Writer:
    """The writer for a model.

    Args:
        model: a GLM, a decoder, an encoder-decoder, or a BERT or RoBERTa trained as UniLM; in evaluation mode.
        tokenizer: says which rows of the vocabulary have a text (others are never written), and ends where the model
            does not; needed for a GLM.
        end_ids: tokens that end an answer, instead of the model's own.
        commands: of a GLM, instead of its tokenizer's.
        fast: whether the lean loop may be taken where it knows the model; its scores differ by rounding only.

    Raises:
        ModelError: no head that writes, or a family that cannot.
    """
    model = _without_adapter(model)
    config = getattr(model, "config", None)
    kind = _kind(model)
    starts: Sequence[int] = ()
    if kind == "flagai_glm":
        general, starts = _glm(model, commands or getattr(tokenizer, "commands", None), tokenizer, end_ids)
    elif getattr(config, "is_encoder_decoder", False):
        general, starts = _seq2seq(model, tokenizer, end_ids)
    elif kind in _BIDIRECTIONAL and not getattr(config, "is_decoder", False):
        general = _unilm(model, tokenizer, end_ids)
    else:
        general = _causal(model, tokenizer, end_ids)
    return _fast(general, model, starts) if fast else general


def _kind(model: Any) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", ""))


def _fast(general: Writer, model: Any, starts: Sequence[int]) -> Writer:
    from flagai.generate import lean

    return lean.LeanWriter(general, model, starts=starts) if lean.supports(model) else general


def _causal(model: Any, tokenizer: Any, ends: Sequence[int] | None) -> Writer:
    from flagai.generate.writers.causal import CausalWriter

    # The encoder of a T5 does not say that it is half of a model.
    _check_head(model, "AutoModelForSeq2SeqLM" if _kind(model) in _T5 else "AutoModelForCausalLM")
    _check_cache(model)
    ends = _ends(model, tokenizer) if ends is None else ends
    return CausalWriter(model, end_ids=_checked(ends, model), forbidden_ids=_without_text(model, tokenizer, ends))


def _seq2seq(model: Any, tokenizer: Any, ends: Sequence[int] | None) -> tuple[Writer, tuple[int, ...]]:
    from flagai.generate.writers.seq2seq import Seq2SeqWriter

    _check_head(model, "AutoModelForSeq2SeqLM")
    if model.config.model_type not in _ENCODER_DECODERS:
        raise _unknown(model, _ENCODER_DECODERS)
    ends = _ends(model, tokenizer) if ends is None else ends
    without, starts = _without_text(model, tokenizer, ends), _starts(model)
    return Seq2SeqWriter(model, starts=starts, end_ids=_checked(ends, model), forbidden_ids=without), starts


def _glm(
    model: Any, commands: Commands | None, tokenizer: Any, ends: Sequence[int] | None
) -> tuple[Writer, tuple[int, ...]]:
    from flagai.generate.prompts import end_ids, structural_ids
    from flagai.generate.writers.glm import GLMWriter

    if getattr(model, "lm_head", None) is None:
        raise _no_head(model, "GLMForConditionalGeneration")
    if commands is None:
        raise ModelError(
            "a GLM writes with its tokenizer's command tokens, and no tokenizer was given"
            if tokenizer is None
            else f"{type(tokenizer).__name__} has no command tokens",
            expected="the tokenizer that belongs to the model",
            where="generate",
        )
    ends = end_ids(commands) if ends is None else ends
    without = {*structural_ids(commands), *_without_text(model, tokenizer, ends)} - set(ends)
    options = {"end_ids": _checked(ends, model), "forbidden_ids": tuple(sorted(without))}
    return GLMWriter(model, commands, **options), (commands.sop,)


def _unilm(model: Any, tokenizer: Any, ends: Sequence[int] | None) -> Writer:
    from flagai.generate.writers.unilm import UniLMWriter, head_of

    if head_of(model) is None:
        raise _no_head(model, "AutoModelForMaskedLM")
    if ends is None:
        sep = getattr(tokenizer, "sep_token_id", None)
        ends = _ends(model, tokenizer) if sep is None else (int(sep),)
    structure = {getattr(tokenizer, name, None) for name in ("pad_token_id", "cls_token_id", "mask_token_id")}
    without = {*_without_text(model, tokenizer, ends), *(one for one in structure if one is not None)} - set(ends)
    return UniLMWriter(model, end_ids=_checked(ends, model), forbidden_ids=tuple(sorted(without)))


# -- what models and tokenizers say ----------------------------------------------------------------------------


def _said(model: Any, name: str) -> Any:
    """What the generation settings say, or the configuration."""
    for source in (getattr(model, "generation_config", None), model.config):
        found = getattr(source, name, None)
        if found is not None:
            return found
    return None


def _vocab_size(model: Any) -> int:
    return int(model.config.get_text_config(decoder=True).vocab_size)


def _ends(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Of the model, else of the tokenizer; a small model may still name the end of the one it was cut from."""
    said = _said(model, "eos_token_id")
    if said is None:
        said = getattr(tokenizer, "eos_token_id", None)
    found = said if isinstance(said, Sequence) else () if said is None else (said,)
    return tuple(int(one) for one in found if one < _vocab_size(model))


def _starts(model: Any) -> tuple[int, ...]:
    """What the decoder reads first: the start token, and the first token where the model always forces one."""
    start = _said(model, "decoder_start_token_id")
    start = start_of(model.config, None) if start is None else start
    if start is None:
        raise ModelError(
            "the configuration names no token that an answer starts with",
            expected="decoder_start_token_id in config.json or generation_config.json",
            where="generate",
        )
    forced = _said(model, "forced_bos_token_id")
    return (int(start),) if forced is None else (int(start), int(forced))


def _without_text(model: Any, tokenizer: Any, ends: Sequence[int]) -> tuple[int, ...]:
    """Rows of the vocabulary that the tokenizer has no token for, its pad and its mask; none without a tokenizer."""
    if tokenizer is None:
        return ()
    size = _vocab_size(model)
    named = {getattr(tokenizer, name, None) for name in ("pad_token_id", "mask_token_id")}
    ids = {*range(_num_tokens(tokenizer, size), size), *(int(one) for one in named if one is not None and one < size)}
    return tuple(sorted(ids - set(ends)))


def _num_tokens(tokenizer: Any, size: int) -> int:
    """One more than the largest id in use; `len` counts tokens, and a vocabulary may have gaps."""
    if not hasattr(tokenizer, "get_vocab") or len(tokenizer) >= size:
        return size
    count = len(tokenizer)
    known = _SIZES.get(tokenizer)
    if known is None or known[0] != count:
        known = _SIZES[tokenizer] = count, 1 + max(tokenizer.get_vocab().values(), default=size - 1)
    return min(known[1], size)


def _checked(ends: Sequence[int], model: Any) -> tuple[int, ...]:
    size = _vocab_size(model)
    beyond = [one for one in ends if not 0 <= one < size]
    if beyond:
        raise ConfigError(
            f"the end token {beyond[0]} is not in the vocabulary",
            expected=f"ids from 0 to {size - 1}",
            where="generate.eos_token_id",
        )
    return tuple(sorted(set(ends)))


def _check_head(model: Any, loader: str) -> None:
    can = getattr(model, "can_generate", None)
    has_head = getattr(model, "get_output_embeddings", lambda: None)() is not None
    if has_head and not (callable(can) and can()):
        raise _unknown(model, _BIDIRECTIONAL)  # a language model, but none that reads from left to right
    if not has_head:
        raise _no_head(model, loader)


def _check_cache(model: Any) -> None:
    layers = set(getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ())
    takes_cache = "past_key_values" in inspect.signature(model.forward).parameters
    if not takes_cache or getattr(model, "_is_stateful", False) or layers - _ATTENTION:
        raise ModelError(
            f"{type(model).__name__} keeps a state that is no cache of keys and values",
            expected="a model of attention layers",
            where="generate",
        )


def _without_adapter(model: Any) -> Any:
    """The model inside PEFT's wrapper: its adapters are in the layers; soft prompts are not."""
    configs = getattr(model, "peft_config", None)
    if configs is None or not hasattr(model, "get_base_model"):
        return model
    if any(getattr(one, "is_prompt_learning", False) for one in configs.values()):
        raise ModelError(
            f"{type(model).__name__} puts soft prompts before a text",
            expected="adapters inside the layers, such as LoRA",
            where="generate",
        )
    return model.get_base_model()


def _unknown(model: Any, known: Sequence[str]) -> ModelError:
    return ModelError(
        f"{type(model).__name__} is of a family that cannot write here",
        expected=f"a decoder, or one of {', '.join(known)}",
        where="generate",
    )


def _no_head(model: Any, loader: str) -> ModelError:
    return ModelError(
        f"{type(model).__name__} has no head that predicts tokens",
        expected="a language model",
        fix=f"load the weights with {loader}",
        where="generate",
    )
