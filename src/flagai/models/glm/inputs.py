"""Texts with mask tokens → the dense model inputs that the published Hugging Face remote code makes, numbers equal.

It knows no model. The light form of our own is in `inputs_light`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import BatchEncoding

from flagai.errors import DataError, ModelError
from flagai.models.glm.blank_layout import IGNORED
from flagai.models.glm.inputs_checks import as_texts, check_masks, name_of
from flagai.models.glm.inputs_light import answers_of, build_inputs, mask_of, same_number

if TYPE_CHECKING:
    from flagai.models.glm.tokenization import GLMTokenizer

__all__ = ["build_inputs", "build_inputs_for_generation", "build_inputs_for_multiple_choice"]


def build_inputs_for_generation(
    tokenizer: GLMTokenizer,
    model_input: Any,
    max_gen_length: int = 512,
    targets: str | Sequence[str] | None = None,
    padding: bool = False,
) -> BatchEncoding:
    """What the remote code's method of this name returns, dense masks included: only the first mask is filled.

    Args:
        model_input: what the tokenizer returned for the contexts with `return_tensors="pt"`, padded on the right; or
            the texts.
        max_gen_length: columns that masks and positions have room for, and most tokens of a target with its eop.
        padding: with targets, whether there are `max_gen_length` columns for them, or as many as the longest needs.

    Returns `input_ids` [B, S + 1], `position_ids` [B, 2, S + max_gen_length] and `generation_attention_mask`
    [B, 1, S + max_gen_length, S + max_gen_length]; with targets the mask is called `attention_mask`, the ids are as
    long as it is, and there are `labels`.
    Errors: `DataError` for what is no text, a context without a mask or with one that the vocabulary lacks, and where
        targets and contexts differ in number.
    """
    ids, keys = _tensors(tokenizer, model_input)
    count, size = ids.shape
    answers = answers_of(tokenizer, targets, count, max_gen_length)
    if targets is not None and not padding:
        max_gen_length = max(len(answer or ()) for answer in answers)
    masks = [mask_of(tokenizer, row, name_of(i, count)) for i, row in enumerate(ids.tolist())]
    dense = _dense_mask(keys, max_gen_length)
    batch: dict[str, Any] = {"position_ids": _positions(masks, size, max_gen_length).to(ids)}
    if targets is None:
        first = ids.new_full((count, 1), tokenizer.sop_token_id)
        return BatchEncoding({"input_ids": torch.cat((ids, first), 1), **batch, "generation_attention_mask": dense})
    fed, labels = _padded_answers(tokenizer, [answer or [] for answer in answers], max_gen_length)
    nothing = ids.new_full((count, size), IGNORED)
    batch |= {"attention_mask": dense, "labels": torch.cat((nothing, labels.to(ids)), 1)}
    return BatchEncoding({"input_ids": torch.cat((ids, fed.to(ids)), 1), **batch})


def _tensors(tokenizer: GLMTokenizer, given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(given, str) or not hasattr(given, "keys"):
        texts = as_texts(given)
        if not texts:
            raise DataError("no texts", expected="at least one")
        for i, text in enumerate(texts):
            check_masks(text, tokenizer.commands, where=name_of(i, len(texts)))
        given = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    ids = torch.as_tensor(given["input_ids"])
    keys = torch.as_tensor(given["attention_mask"]) if "attention_mask" in given else torch.ones_like(ids)
    if ids.dim() != 2:
        raise DataError(f"input_ids of shape {tuple(ids.shape)}", expected="[texts, tokens]", fix='return_tensors="pt"')
    return ids, keys


def _positions(masks: Sequence[int], size: int, room: int) -> torch.Tensor:
    """[B, 2, size + room]: places of the context and of its mask; 0 and 1, 2, … within the piece."""
    rows = [[[*range(size), *[mask] * room], [*[0] * size, *range(1, room + 1)]] for mask in masks]
    return torch.tensor(rows)


def _dense_mask(keys: torch.Tensor, room: int) -> torch.Tensor:
    """[B, 1, S + room, S + room]: all rows see the real tokens of the context, a piece also what precedes in it."""
    count, size = keys.shape
    context = keys[:, None].expand(count, size + room, size)
    piece = torch.cat((keys.new_zeros(size, room), keys.new_ones(room, room).tril()))
    return torch.cat((context, piece.expand(count, -1, -1)), 2)[:, None]


def _padded_answers(
    tokenizer: GLMTokenizer, answers: Sequence[Sequence[int]], room: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(inputs, labels) [B, room]. What is fed behind the last label is the eop and then pads, as published."""
    fed = [[tokenizer.sop_token_id, *answer, *[tokenizer.commands.pad] * room][:room] for answer in answers]
    labels = [[*answer, *[IGNORED] * room][:room] for answer in answers]
    return torch.tensor(fed), torch.tensor(labels)


def build_inputs_for_multiple_choice(
    tokenizer: GLMTokenizer, model_input: Any, choices: Sequence[Sequence[str]], max_length: int | None = None
) -> BatchEncoding:
    """What the remote code's method of this name returns: all choices of a question packed behind one context.

    Args:
        model_input: as for `build_inputs_for_generation`.
        choices: for each context its answers, as texts.
        max_length: most columns; beyond it there is an error (the remote code ignores it).

    Returns `input_ids` [B, L], `position_ids` [B, 2, L], `attention_mask` [B, 1, L, L] (a choice sees the context and
    itself) and, as lists of tensors, `choice_ids` and `choice_indices`: the tokens of each choice and the columns that
    predict them.
    Errors: `DataError` for what is no text, a context without a mask or with one that the vocabulary lacks, a question
        without choices or a choice without tokens; `ModelError` for a row beyond `max_length`.
    """
    ids, keys = _tensors(tokenizer, model_input)
    same_number(len(choices), len(ids), "lists of choices")
    rows = [_packed(tokenizer, ids[i], keys[i], choices[i], name_of(i, len(ids))) for i in range(len(ids))]
    length = max(len(row["input_ids"]) for row in rows)
    if max_length is not None and length > max_length:
        raise ModelError(
            f"a question with its choices has {length} tokens", expected=f"{max_length} at most", fix="shorten it"
        )
    padded = [_pad_row(row, length) for row in rows]
    batch: dict[str, Any] = {name: torch.stack([row[name] for row in padded]) for name in padded[0]}
    batch["attention_mask"] = batch["attention_mask"][:, None]
    return BatchEncoding(batch | {name: [row[name] for row in rows] for name in ("choice_ids", "choice_indices")})


def _packed(
    tokenizer: GLMTokenizer, ids: torch.Tensor, keys: torch.Tensor, choices: Sequence[str], where: str
) -> dict[str, Any]:
    answers = [tokenizer.EncodeAsIds(choice) for choice in as_texts(choices, "choice")]
    if not answers or not all(answers):
        raise DataError(
            f"the question has {'a choice without tokens' if answers else 'no choices'}",
            where=where,
            expected="texts to choose from",
        )
    row, size = ids.tolist(), len(ids)
    # The remote code looks for [MASK] alone; here the other two will do where there is none.
    mask = row.index(tokenizer.commands.mask) if tokenizer.commands.mask in row else mask_of(tokenizer, row, where)
    ends = np.cumsum([size, *map(len, answers)])
    fed = [token for answer in answers for token in (tokenizer.sop_token_id, *answer[:-1])]
    blocks = [place for answer in answers for place in range(1, len(answer) + 1)]
    own = [keys.expand(size, -1), *(keys.new_ones(len(answer), len(answer)).tril() for answer in answers)]
    attention = torch.block_diag(*own)
    attention[size:, :size] = keys
    return {
        "input_ids": torch.cat((ids, ids.new_tensor(fed))),
        "position_ids": ids.new_tensor([[*range(size), *[mask] * len(fed)], [*[0] * size, *blocks]]),
        "attention_mask": attention,
        "choice_ids": [torch.tensor(answer) for answer in answers],
        "choice_indices": [
            torch.arange(start, end) for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
        ],
    }


def _pad_row(row: dict[str, Any], length: int) -> dict[str, torch.Tensor]:
    """Token 0, the last positions again, and a mask that lets pads see nothing."""
    room = length - len(row["input_ids"])
    positions = row["position_ids"]
    return {
        "input_ids": torch.nn.functional.pad(row["input_ids"], (0, room)),
        "position_ids": torch.cat((positions, positions[:, -1:].expand(-1, room)), 1),
        "attention_mask": torch.nn.functional.pad(row["attention_mask"], (0, room, 0, room)),
    }
