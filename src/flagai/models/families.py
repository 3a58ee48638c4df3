"""Which of four ways of writing a model has, told by its configuration. Knows no weights and loads no torch itself.

- "glm": an answer stands behind the context and at the place of a mask (flagai.models.glm).
- "encoder-decoder": one part reads, another writes (T5, mT5, BART).
- "decoder": left to right (GPT-2, OPT, Llama, Qwen, CPM).
- "encoder": a masked language model that reads the source both ways and writes behind it left to right, as
  UniLM does (Dong et al. 2019, section 2.3, "sequence-to-sequence LM").
"""

from __future__ import annotations

from typing import Any, Final, Literal

Family = Literal["glm", "encoder-decoder", "decoder", "encoder"]

BODIES: Final[dict[Family, str]] = {
    "glm": "conditional-generation",
    "encoder-decoder": "conditional-generation",
    "decoder": "causal-lm",
    "encoder": "masked-lm",
}
"""family → the kind of body (`loading.BODIES`) that writes"""
PREFIX_ENCODERS: Final = frozenset({"bert", "roberta", "xlm-roberta"})
"""encoders whose Hugging Face classes take a cache and a mask of their own, as writing needs"""


def family_of(config: Any) -> Family | None:
    """The family of a Hugging Face configuration; None where no model of that configuration writes.

    BERT-like configurations have causal classes in transformers too; they are "encoder" unless they say `is_decoder`.
    """
    from transformers.models.auto import modeling_auto as auto

    kind = getattr(config, "model_type", "")
    if kind == "flagai_glm":
        return "glm"
    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder" if kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES else None
    if kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        return "encoder" if kind in PREFIX_ENCODERS else None
    return "decoder" if kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else None


def end_ids_of(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer, the one a model is trained to write first; () where the tokenizer has none.

    A GLM ends with <|endofpiece|> (answers to [gMASK] were pre-trained to end with the text's own end, too); others
    with their end of text, or with [SEP] where they have no such token.
    """
    commands = getattr(tokenizer, "commands", None)
    if commands is not None:
        return tuple(dict.fromkeys((commands.eop, commands.eos)))
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    return () if end is None else (int(end),)


def start_of(config: Any, pad_token_id: int | None) -> int | None:
    """What an encoder-decoder's decoder reads first: as the configuration says, else the pad, as T5's does."""
    said = (getattr(config, name, None) for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"))
    return next((int(start) for start in (*said, pad_token_id) if start is not None), None)


_COUNTED_FROM_PAD: Final = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "xmod"})
_RELATIVE: Final = frozenset({"t5", "mt5", "umt5", "longt5", "byt5"})


def positions_of(config: Any) -> int | None:
    """How many tokens a model has positions for, special tokens counted; None without a bound (T5) or where unsaid.

    Families that count from behind the pad id have that many less than rows in their table.
    """
    if config.model_type in _RELATIVE:
        return None
    names = ("max_sequence_length", "max_position_embeddings", "n_positions")
    positions = next((int(value) for name in names if (value := getattr(config, name, None))), None)
    if positions is not None and config.model_type in _COUNTED_FROM_PAD:
        positions -= (config.pad_token_id or 0) + 1
    return positions
