"""`generate`: prompts as tensors in, tokens and answers out, for any family of models. Knows no search."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flagai.errors import DataError
from flagai.generate.engine import Engine
from flagai.generate.options import GenerationOptions, make_options
from flagai.generate.prompts import make_prompt
from flagai.generate.requests import Answer, Filling, OnToken
from flagai.generate.sampling import fresh_seed
from flagai.generate.writers.base import Prompt, Writer
from flagai.generate.writers.make import make_writer

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Generated:
    """What was written.

    Args:
        sequences: int64 [prompts × num_return_sequences, longest], as Hugging Face's `generate` returns it: the prompt
            and its answer for decoders, start token and answer for encoder-decoders, ends counted, padded on the right.
        answers: for each prompt its answers, the best first where several were searched for.
    """

    sequences: Tensor
    answers: tuple[tuple[Answer, ...], ...]


def generate(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    tokenizer: Any = None,
    generation: GenerationOptions | None = None,
    pad_token_id: int | None = None,
    max_rows: int | None = None,
    on_token: OnToken | None = None,
    **options: Any,
) -> Generated:
    """Write on from prompts of different lengths.

    Args:
        model: any decoder, encoder-decoder or BERT-like model of Hugging Face with its language-model head, or a GLM
            (whose prompts hold one mask each; several masks: `flagai.generate.blanks.fill`). It is put into
            evaluation mode while it writes.
        input_ids: int64 [prompts, length].
        attention_mask: [prompts, length], 0 for pads, which may stand on either side; None: there are none.
        tokenizer: for stop strings and constraints, and for a GLM.
        generation: options to start from; those by name go before it.
        pad_token_id: fills up `sequences`; default the model's own, else 0.
        max_rows: most rows that go through the model at a time, see `Engine`; answers do not depend on it.
        on_token: see `OnToken`.
        options: of `GenerationOptions`, under Hugging Face's names.

    Raises:
        DataError: an empty prompt, or one beyond the model.
        ConfigError: options that cannot be meant, are beyond the model, or cannot be met.
        UnknownNameError: no such option.
        ModelError: the model has no head that writes.
    """
    chosen = make_options(options, generation)
    writer = make_writer(model, tokenizer=tokenizer)
    prompts = _prompts(input_ids, attention_mask)
    if getattr(writer, "fills_blanks", False):
        prompts = [make_prompt(prompt.ids, tokenizer.commands) for prompt in prompts]
    fillings = write(
        writer, prompts, chosen, tokenizer=tokenizer, max_rows=max_rows, on_token=on_token, training=_mode(model)
    )
    answers = tuple(tuple(filling[-1] for filling in one) for one in fillings)
    pad = pad_token_id if pad_token_id is not None else _pad(model)
    return Generated(_sequences(input_ids, answers, model, pad), answers)


def write(
    writer: Writer,
    prompts: Sequence[Prompt],
    options: GenerationOptions,
    *,
    tokenizer: Any = None,
    copies: Sequence[int] | None = None,
    max_rows: int | None = None,
    on_token: OnToken | None = None,
    names: Sequence[str] = (),
    training: Iterable[Any] = (),
) -> list[list[Filling]]:
    """The fillings of each prompt: `num_return_sequences` of them, the best first where beams were searched.

    Args:
        copies: for each prompt its number among equal ones, so that they draw differently; default: counted here.
        names: of the prompts, for errors.
        training: modules that are put into evaluation mode meanwhile.

    Raises:
        As `generate`; the first error of any prompt.
    """
    if options.seed is None and options.do_sample:  # without draws torch's stream is left alone: training goes on
        options = dataclasses.replace(options, seed=fresh_seed())
    engine = Engine(writer, tokenizer=tokenizer, max_rows=max_rows)
    numbers = _count_copies(prompts) if copies is None else copies
    for i, (prompt, copy) in enumerate(zip(prompts, numbers, strict=True)):
        engine.submit(prompt, options, copy=copy, on_token=on_token, where=names[i] if names else "")
    found: dict[int, list[Filling]] = {}
    modules = [module for module in training if module.training]
    for module in modules:
        module.train(False)
    try:
        for finished in engine.run():
            if finished.error is not None:
                raise finished.error
            found[finished.number] = list(finished.fillings)
    finally:
        for module in modules:
            module.train(True)
    return [found[i] for i in range(len(prompts))]


def _prompts(input_ids: Tensor, attention_mask: Tensor | None) -> list[Prompt]:
    if input_ids.dim() != 2 or (attention_mask is not None and attention_mask.shape != input_ids.shape):
        mask = "" if attention_mask is None else f", attention_mask {list(attention_mask.shape)}"
        raise DataError(
            f"input_ids has the shape {list(input_ids.shape)}{mask}",
            expected="both [prompts, length]",
            where="generate",
        )
    rows = input_ids.tolist()
    if attention_mask is None:
        return [Prompt(ids=tuple(row)) for row in rows]
    masks = attention_mask.tolist()
    return [
        Prompt(ids=tuple(token for token, real in zip(row, mask, strict=True) if real))
        for row, mask in zip(rows, masks, strict=True)
    ]


def _count_copies(prompts: Sequence[Prompt]) -> list[int]:
    seen: Counter[tuple[int, ...]] = Counter()
    numbers = []
    for prompt in prompts:
        numbers.append(seen[prompt.ids])
        seen[prompt.ids] += 1
    return numbers


def _sequences(input_ids: Tensor, answers: Sequence[Sequence[Answer]], model: Any, pad: int) -> Tensor:
    config = getattr(model, "config", None)
    start = getattr(config, "decoder_start_token_id", None) if getattr(config, "is_encoder_decoder", False) else None
    rows = []
    for row, found in zip(input_ids.tolist(), answers, strict=True):
        front = row if start is None else [start]
        for answer in found:
            rows.append([*front, *answer.tokens, *(() if answer.end is None else (answer.end,))])
    longest = max(map(len, rows), default=0)
    filled = [row + [pad] * (longest - len(row)) for row in rows]
    return torch.tensor(filled, dtype=torch.long, device=input_ids.device).reshape(len(rows), longest)


def _pad(model: Any) -> int:
    for source in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        found = getattr(source, "pad_token_id", None)
        if found is not None:
            return int(found)
    return 0


def _mode(model: Any) -> list[Any]:
    return list(model.modules()) if getattr(model, "training", False) else []
