"""From options to the search that they ask for, checked against the model. Knows no step and no batch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from flagai.errors import ConfigError, DataError
from flagai.generate.beams import Beams
from flagai.generate.contrastive import Contrastive
from flagai.generate.drawing import Drawing
from flagai.generate.options import GenerationOptions
from flagai.generate.processors import make_processors
from flagai.generate.search import Search, Setting
from flagai.generate.writers.base import Prompt, Writer

if TYPE_CHECKING:
    from flagai.generate.constraints.processor import ConstraintProcessor

USUAL_LENGTH: Final = 128
"""most tokens of an answer where no one says how many"""
_BETWEEN_WIDE: Final = re.compile(r"(?<=[\u2e80-\uffef])\s+|\s+(?=[\u2e80-\uffef])")
_EXTRA_TOKENS: Final = 8  # beside a stop string's bytes, each of which may be a token: those without any


def rows_needed(options: GenerationOptions) -> int:
    """Rows of the batch that a request takes at most."""
    return options.num_beams if options.penalty_alpha is None else options.top_k


def settle_options(options: GenerationOptions, writer: Writer, prompt: Prompt, *, where: str = "") -> GenerationOptions:
    """The options with `max_new_tokens` decided.

    Raises:
        DataError: the prompt is empty, beyond the model, or of another vocabulary.
        ConfigError: answers beyond the model, or suppressed tokens that it does not have.
    """
    _check_ids(prompt, int(getattr(writer, "source_size", 0)) or writer.vocab_size, where)
    beyond = [i for i in (*options.suppress_tokens, *(options.eos_token_id or ())) if i >= writer.vocab_size]
    if beyond:
        name = "suppress_tokens" if beyond[0] in options.suppress_tokens else "eos_token_id"
        raise ConfigError(
            f"{name} has {beyond[0]}" + (f" and {len(beyond) - 1} more like it" if beyond[1:] else ""),
            where=f"generate.{name}",
            expected=f"ids from 0 to {writer.vocab_size - 1}: the vocabulary has no others",
            fix="take them out",
        )
    try:
        room = writer.room(prompt)
    except DataError as error:
        raise DataError(error.found, expected=error.expected, fix=error.fix, where=where or error.where) from error
    if room is not None and options.penalty_alpha is not None:
        room -= 1  # contrastive search reads the last token of an answer too
    if options.max_new_tokens is None:
        most = USUAL_LENGTH if room is None else min(USUAL_LENGTH, room)
        return dataclasses.replace(options, max_new_tokens=most)
    if room is not None and options.max_new_tokens > room:
        raise ConfigError(
            f"max_new_tokens is {options.max_new_tokens}",
            where=where or "generate.max_new_tokens",
            expected=f"at most {room}: the model has no positions for longer answers"
            + ("" if prompt.blanks else " behind this prompt"),
            fix="lower it" if prompt.blanks else "lower it, or shorten the prompt",
        )
    return options


def _check_ids(prompt: Prompt, size: int, where: str) -> None:
    """Ids beyond the vocabulary would be looked up beyond a table: on a GPU that stops the whole process."""
    strange = next((one for one in prompt.ids if not 0 <= one < size), None)
    if strange is not None:
        raise DataError(
            f"the prompt has the token id {strange}",
            where=where or "generate",
            expected=f"ids from 0 to {size - 1}: the vocabulary has no others",
            fix="encode the text with the model's own tokenizer",
        )


def make_search(options: GenerationOptions, writer: Writer, tokenizer: Any = None) -> Search:
    """The search for requests with these options.

    Args:
        tokenizer: for stop strings and constraints.

    Raises:
        ConfigError: a tokenizer is needed and there is none.
    """
    if tokenizer is None and (options.stop or options.constraints):
        raise ConfigError(
            f"{'stop' if options.stop else 'constraints'} without a tokenizer",
            where="generate",
            expected="the model's tokenizer: texts are compared, not tokens",
            fix="pass tokenizer=…",
        )
    ends = writer.end_ids if options.eos_token_id is None else options.eos_token_id
    constraint = _constraint(options, tokenizer, ends, (*writer.forbidden_ids, *options.suppress_tokens))
    setting = Setting(
        device=writer.device,
        end_ids=tuple(ends),
        processors=make_processors(
            options, end_ids=ends, forbidden=writer.forbidden_ids, device=writer.device, constraint=constraint
        ),
        constraint=constraint,
        stops=_stops(options.stop, tokenizer) if options.stop else None,
        continues=getattr(writer, "continues", False),
        count_end=not getattr(writer, "fills_blanks", False),
    )
    if options.penalty_alpha is not None:
        return Contrastive(options, setting)
    return Beams(options, setting) if options.num_beams > 1 else Drawing(options, setting)


def _constraint(
    options: GenerationOptions, tokenizer: Any, ends: Sequence[int], forbidden: Sequence[int]
) -> ConstraintProcessor | None:
    if not options.constraints:
        return None
    from flagai.generate.constraints.processor import make_constraint
    from flagai.generate.constraints.vocabulary import Vocabulary

    assert options.max_new_tokens is not None
    return make_constraint(
        options.constraints,
        Vocabulary.of(tokenizer),
        end_ids=tuple(ends),
        max_new_tokens=options.max_new_tokens,
        forbidden=tuple(forbidden),
    )


def _stops(texts: Sequence[str], tokenizer: Any) -> Callable[[Sequence[int]], bool]:
    longest = max(len(text.encode()) for text in texts) + _EXTRA_TOKENS
    # A stop string that is a special token, such as the end of a turn, must not be left out of what is looked at.
    special = [one for one in getattr(tokenizer, "all_special_tokens", ()) if one]
    skip = not any(one in text for one in special for text in texts)
    # WordPiece puts a space between any two tokens, Chinese characters too; tasks take it out again.
    joins = type(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)).__name__ == "WordPiece"

    def stops(tokens: Sequence[int]) -> bool:
        tail = tokenizer.decode(list(tokens[-longest:]), skip_special_tokens=skip)
        tail = _BETWEEN_WIDE.sub("", tail) if joins else tail
        return any(text in tail for text in texts)

    return stops
