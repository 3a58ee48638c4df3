"""Texts with mask tokens → the light model inputs of `GLMForConditionalGeneration`: 2-D masks and context lengths.

It knows no model. The published dense forms are in `inputs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from transformers import BatchEncoding

from flagai.errors import ConfigError, DataError, ModelError
from flagai.models.glm.blank_layout import IGNORED
from flagai.models.glm.inputs_checks import as_texts, check_masks, find_masks, name_of

if TYPE_CHECKING:
    from flagai.models.glm.tokenization import GLMTokenizer


def build_inputs(
    tokenizer: GLMTokenizer,
    texts: str | Sequence[str],
    *,
    targets: str | Sequence[str] | None = None,
    blank: int = 0,
    max_gen_length: int | None = None,
    max_context_length: int | None = None,
    padding_side: Literal["left", "right"] = "left",
) -> BatchEncoding:
    """Inputs for `GLMForConditionalGeneration`: contexts, then a sop (and the targets) at the position of a mask.

    Args:
        texts: contexts, framed as `encode_context` does.
        targets: what belongs into the blank of each text; gives `labels`. No space is put in front.
        blank: which of a text's masks is filled, counted from the left.
        max_gen_length: most tokens of a target with its eop; the rest is cut.
        max_context_length: most tokens of a context; beyond it the text is an error, nothing is cut.
        padding_side: "left" lines all contexts up at their ends, so that tokens can be appended; "right" leaves no gap
            between context and target.

    Returns tensors: `input_ids` [B, L], `attention_mask` [B, L] (0 where padded), `position_ids` [B, 2, L],
    `context_length` [B] (columns of the context, pads on its left included) and, with targets, `labels` [B, L], where
    `labels[:, i]` is what the output at i predicts, -100 for nothing.
    Errors: `DataError` for what is no text, a text without a mask or with one that the vocabulary lacks, and where
        targets and texts differ in number; `ModelError` for a text beyond the length or without mask number `blank`.
    """
    rows = _contexts(tokenizer, as_texts(texts), blank, max_context_length)
    answers = answers_of(tokenizer, targets, len(rows), max_gen_length)
    if padding_side not in ("left", "right"):
        raise ConfigError(f"padding_side {padding_side!r}", expected="left or right", where="padding_side")
    filled = [_fill(tokenizer, row, answer) for row, answer in zip(rows, answers, strict=True)]
    width = max(row.context for row in filled)
    gaps = [width - row.context if padding_side == "left" else 0 for row in filled]
    length = max(gap + len(row.ids) for gap, row in zip(gaps, filled, strict=True))
    batch = {
        "input_ids": np.full((len(rows), length), tokenizer.commands.pad),
        "attention_mask": np.zeros((len(rows), length), int),
        "position_ids": np.zeros((len(rows), 2, length), int),
        "context_length": np.array([gap + row.context for gap, row in zip(gaps, filled, strict=True)]),
        "labels": np.full((len(rows), length), IGNORED),
    }
    for i, (gap, row) in enumerate(zip(gaps, filled, strict=True)):
        here = slice(gap, gap + len(row.ids))
        batch["input_ids"][i, here] = row.ids
        batch["attention_mask"][i, here] = 1
        batch["position_ids"][i, :, here] = row.positions
        batch["labels"][i, here] = row.labels
    if targets is None:
        del batch["labels"]
    return BatchEncoding({name: torch.from_numpy(values) for name, values in batch.items()})


@dataclass(frozen=True, slots=True)
class _Context:
    ids: list[int]
    mask: int
    """where the blank's mask stands"""


@dataclass(frozen=True, slots=True)
class _Filled:
    ids: list[int]
    positions: np.ndarray
    """[2, length]"""
    labels: list[int]
    context: int


def _contexts(tokenizer: GLMTokenizer, texts: list[str], blank: int, longest: int | None) -> list[_Context]:
    if not texts:
        raise DataError("no texts", expected="at least one")
    rows = []
    for number, text in enumerate(texts):
        where = name_of(number, len(texts))
        check_masks(text, tokenizer.commands, where=where)
        ids = tokenizer.encode_context(text)
        if longest is not None and len(ids) > longest:
            raise ModelError(
                f"the text has {len(ids)} tokens",
                where=where,
                expected=f"{longest} at most",
                fix="shorten it: a cut could take the mask along",
            )
        rows.append(_Context(ids, mask_of(tokenizer, ids, where, blank)))
    return rows


def mask_of(tokenizer: GLMTokenizer, ids: Sequence[int], where: str, blank: int = 0) -> int:
    """Where the mask to be filled stands in a context.

    Errors: `DataError` where it has none, `ModelError` where it has no mask number `blank`.
    """
    places = find_masks(ids, tokenizer.commands, where=where)
    if not 0 <= blank < len(places):
        raise ModelError(f"the text has {len(places)} masks", where=where, expected=f"more than blank={blank}")
    return places[blank]


def answers_of(
    tokenizer: GLMTokenizer, targets: str | Sequence[str] | None, count: int, longest: int | None
) -> list[list[int] | None]:
    """The tokens of each target with eop, `longest` at most; None for each where there are no targets."""
    if targets is None:
        return [None] * count
    texts = as_texts(targets, "target")
    same_number(len(texts), count, "targets")
    return [[*tokenizer.EncodeAsIds(text), tokenizer.eop_token_id][:longest] for text in texts]


def _fill(tokenizer: GLMTokenizer, context: _Context, answer: list[int] | None) -> _Filled:
    size, sop = len(context.ids), tokenizer.sop_token_id
    fed = [sop] if answer is None else [sop, *answer[:-1]]
    positions = np.zeros((2, size + len(fed)), int)
    positions[0, :size] = range(size)
    positions[0, size:] = context.mask
    positions[1, size:] = range(1, len(fed) + 1)
    labels = [IGNORED] * size + (answer if answer is not None else [IGNORED])
    return _Filled([*context.ids, *fed], positions, labels, size)


def same_number(found: int, expected: int, what: str) -> None:
    """`DataError` where there is not one for each text."""
    if found != expected:
        raise DataError(f"{found} {what} for {expected} texts", expected="one for each text")
