"""Fills the blanks of texts with a GLM: one after the other, each answer seeing those before it.

It knows tokens, not texts; the steps are the engine's. Source: Du et al., "GLM", ACL 2022, section 2.1.

A context is read once; then one token at a time goes through the model. An answer that `max_new_tokens` cuts off is
read to its last token before the next blank begins (the original leaves that token out, so that the next answer
could repeat it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flagai.generate.generate import write
from flagai.generate.options import GenerationOptions
from flagai.generate.prompts import make_prompt
from flagai.generate.requests import Filling, OnToken
from flagai.generate.writers.make import make_writer
from flagai.models.glm.inputs_checks import name_of

if TYPE_CHECKING:
    from flagai.models.glm.commands import Commands


def fill(
    model: Any,
    contexts: Sequence[Sequence[int]],
    *,
    commands: Commands,
    options: GenerationOptions | None = None,
    tokenizer: Any = None,
    copies: Sequence[int] | None = None,
    max_rows: int | None = None,
    on_token: OnToken | None = None,
) -> list[list[Filling]]:
    """`num_return_sequences` fillings of each context, the best first where beams were searched.

    Results do not depend on what else is in the batch: texts of other lengths, with other numbers of blanks. A draw
    depends on the seed, the context and its number among equal ones. Beams are searched for one blank
    after the other, each with the best answers to those before it; several answers are then those to the last blank.

    Args:
        model: in evaluation mode.
        contexts: ids with masks, framed as the model wants them ([CLS] … eos).
        tokenizer: for stop strings and constraints.
        copies: for each context its number among equal ones, so that they draw differently; default: counted here.
        max_rows: most rows that go through the model at a time, see `Engine`.
        on_token: see `OnToken`; not for beams, whose answers are known only at the end.

    Raises:
        DataError: a context without a mask, with too many, or longer than the model reads.
        ConfigError: answers longer than the model's positions, suppressed tokens that it does not have, options that
            allow no token, or a callback where there is no one answer to follow.
    """
    names = [name_of(i, len(contexts)) for i in range(len(contexts))]
    prompts = [make_prompt(ids, commands, where=name) for ids, name in zip(contexts, names, strict=True)]
    return write(
        make_writer(model, tokenizer=tokenizer, commands=commands),
        prompts,
        options or GenerationOptions(),
        tokenizer=tokenizer,
        copies=copies,
        max_rows=max_rows,
        on_token=on_token,
        names=names,
    )
