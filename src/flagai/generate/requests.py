"""What is asked of decoding and what comes back: requests and answers. Knows no model and no search."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from flagai.generate.options import GenerationOptions
from flagai.generate.writers.base import Prompt

if TYPE_CHECKING:
    import torch

Finish = Literal["end", "length", "stop"]

OnToken = Callable[[int, int, int], None]
"""called with (number of the request, number of the blank, token id) as soon as a token is chosen"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was written in one place.

    Args:
        tokens: without start and end.
        logprob: Σ log p of the tokens and, where it ended by itself, of its end.
        score: logprob / len(tokens)**length_penalty; beams of other families than GLM count the end too, and beams add
            up what processors (penalties, diversity) made of log p, as transformers does.
        ended: whether by an end token; otherwise by `max_new_tokens` or a stop string.
        logprobs: log p of each token and, where `ended`, of the end, under the model's own distribution.
        end: the token that ended it, None where none did.
        finish: "end", "length" (`max_new_tokens`) or "stop" (one of the stop strings, which is in `tokens`).
    """

    tokens: tuple[int, ...]
    logprob: float
    score: float
    ended: bool
    logprobs: tuple[float, ...] = ()
    end: int | None = None
    finish: Finish = "length"


def make_answer(
    tokens: Sequence[int],
    logprob: float,
    *,
    ended: bool,
    length_penalty: float,
    logprobs: Sequence[float] = (),
    end: int | None = None,
    stopped: bool = False,
    count_end: bool = False,
) -> Answer:
    """An answer with its score; an empty one counts as one token long (the original divides by zero there).

    Args:
        count_end: whether the end token is a part of the length that the score is divided by.
    """
    length = max(len(tokens) + (ended and count_end), 1)
    return Answer(
        tokens=tuple(tokens),
        logprob=logprob,
        score=logprob / length**length_penalty,
        ended=ended,
        logprobs=tuple(logprobs),
        end=end,
        finish="end" if ended else "stop" if stopped else "length",
    )


Filling = tuple[Answer, ...]
"""an answer for each blank of a prompt, in order; one answer for families without blanks"""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Request:
    """One prompt on its way through a search.

    Args:
        number: the engine's number of what was submitted.
        options: with `max_new_tokens` decided.
        sequence: which of `num_return_sequences` draws this one is.
        random: its own stream, for draws.
        before: answers to blanks that are filled already.
        setbacks: how often it was begun again from a shorter prefix, because no token was allowed.
    """

    number: int
    prompt: Prompt
    options: GenerationOptions
    sequence: int = 0
    random: torch.Generator | None = None
    before: Filling = ()
    logprobs: tuple[float, ...] = ()
    """log p of the tokens in `prompt.written` that were chosen, where it is taken up again"""
    setbacks: int = 0
    on_token: OnToken | None = None

    @property
    def max_new_tokens(self) -> int:
        """Most tokens of an answer."""
        assert self.options.max_new_tokens is not None
        return self.options.max_new_tokens

    def next_blank(self, answer: Answer) -> Request:
        """The same request with `answer` in its first open blank, to be begun at the next one."""
        first, *rest = self.prompt.blanks
        prompt = dataclasses.replace(
            self.prompt,
            written=(),
            blanks=tuple(rest),
            answers=(*self.prompt.answers, (first, answer.tokens)),
        )
        return dataclasses.replace(self, prompt=prompt, before=(*self.before, answer), logprobs=(), setbacks=0)
