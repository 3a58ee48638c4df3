"""One token after the other: the most probable one, or a draw from the request's own stream. Knows no model.

Where constraints leave no token, the answer goes back to a shorter prefix and on from there another way.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flagai.errors import FlagaiError
from flagai.generate.histories import Past
from flagai.generate.options import GenerationOptions
from flagai.generate.processors import no_numbers, no_token_allowed
from flagai.generate.requests import Answer, Request, make_answer
from flagai.generate.sampling import draw, most_probable
from flagai.generate.search import Move, Setting


class Drawing:
    """Greedy search and sampling; each row is a request.

    Args:
        options: those of all its requests, but for `max_new_tokens` and `seed`.
    """

    def __init__(self, options: GenerationOptions, setting: Setting) -> None:
        self._options, self._setting = options, setting
        self._rows: list[_Row] = []
        self._history = Past(setting)

    def admit(self, requests: Sequence[Request]) -> None:
        self._rows += [_Row.of(request) for request in requests]
        prompts = [request.prompt for request in requests]
        self._history.add([prompt.ids for prompt in prompts], [prompt.written for prompt in prompts])

    def advance(self, scores: Tensor, hidden: Sequence[Tensor] | None = None) -> Move:
        chosen, logprobs = self._choose(scores)
        outcome = _Outcome()
        for index, (row, token, logprob) in enumerate(zip(self._rows, chosen.tolist(), logprobs.tolist(), strict=True)):
            self._settle(index, row, token, logprob, outcome)
        everyone = len(outcome.rows) == len(self._rows)
        move = outcome.move(chosen if everyone else None, self._setting.device)
        self._rows = [self._rows[i] for i in outcome.rows]
        self._history.extend(move.rows, move.tokens, max((len(row.tokens) for row in self._rows), default=0))
        if move.opens is not None:
            self._history.forget(move.opens)  # the next answer knows nothing of the last
        return move

    def drop(self, number: int) -> list[int]:
        gone = [i for i, row in enumerate(self._rows) if row.request.number == number]
        left = [i for i in range(len(self._rows)) if i not in set(gone)]
        self._rows = [self._rows[i] for i in left]
        self._history.keep(left)
        return gone

    def _choose(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """(token, log p under the model) of each row; log p is -inf where no token was allowed."""
        allowed = self._history.process(scores)
        if self._options.do_sample:
            chosen = draw(allowed, [row.random for row in self._rows])
        else:
            chosen = most_probable(allowed)
        places = chosen[:, None]
        logprobs = (scores.gather(1, places) - scores.logsumexp(1, keepdim=True)).double()
        # A forbidden token is chosen only where all are: -inf tells it, in the transfer that is made anyway.
        return chosen, logprobs.masked_fill(allowed.gather(1, places) == -torch.inf, -torch.inf)[:, 0]

    def _settle(self, index: int, row: _Row, token: int, logprob: float, outcome: _Outcome) -> None:
        """What becomes of a row with the token chosen for it."""
        if row.cut_off:  # the token has no meaning: the model has read the last one of the answer, and no more
            self._finish(index, row, row.answer(), outcome)
        elif math.isnan(logprob):
            outcome.failed.append((row.request, no_numbers()))
        elif logprob == -math.inf:
            self._go_back(row, outcome)
        elif token in self._setting.end_ids:
            self._finish(index, row, row.answer(end=token, logprob=logprob), outcome)
        else:
            row.take(token, logprob)
            self._go_on(index, row, outcome)

    def _go_on(self, index: int, row: _Row, outcome: _Outcome) -> None:
        stopped = self._setting.stops is not None and self._setting.stops(row.tokens)
        full = len(row.tokens) == row.request.max_new_tokens
        if not (stopped or full):
            outcome.keep(index, row.tokens[-1])
        elif row.has_more_blanks:  # the next answer is to see the last token of this one too
            row.cut_off, row.stopped = True, stopped
            outcome.keep(index, row.tokens[-1])
        else:
            row.stopped = stopped
            self._finish(index, row, row.answer(), outcome)

    def _finish(self, index: int, row: _Row, answer: Answer, outcome: _Outcome) -> None:
        row.tell_late(answer)
        if row.has_more_blanks:
            row.request = row.request.next_blank(answer)
            row.tokens, row.logprobs, row.cut_off, row.stopped = [], [], False, False
            outcome.keep(index, 0, opens=True)
        else:
            outcome.done.append((row.request, [(*row.request.before, answer)]))

    def _go_back(self, row: _Row, outcome: _Outcome) -> None:
        constraint = self._setting.constraint
        if constraint is None:
            outcome.failed.append((row.request, no_token_allowed()))
            return
        try:
            length = constraint.backtrack(tuple(row.tokens), row.request.setbacks)
        except FlagaiError as error:
            outcome.failed.append((row.request, error))
            return
        prompt = dataclasses.replace(row.request.prompt, written=tuple(row.tokens[:length]))
        outcome.again.append(
            dataclasses.replace(
                row.request, prompt=prompt, logprobs=tuple(row.logprobs[:length]), setbacks=row.request.setbacks + 1
            )
        )


@dataclass(slots=True)
class _Row:
    """An answer that is being written, and the request that it belongs to."""

    request: Request
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    cut_off: bool = False
    stopped: bool = False

    @classmethod
    def of(cls, request: Request) -> _Row:
        return cls(request, list(request.prompt.written), list(request.logprobs))

    @property
    def random(self) -> torch.Generator:
        assert self.request.random is not None
        return self.request.random

    @property
    def has_more_blanks(self) -> bool:
        return len(self.request.prompt.blanks) > 1

    def take(self, token: int, logprob: float) -> None:
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if self.request.on_token is not None and not self._may_go_back:
            self.request.on_token(self.request.number, len(self.request.before), token)

    def tell_late(self, answer: Answer) -> None:
        """Tell of all tokens at once: under constraints a token may be taken back until the answer is there."""
        if self.request.on_token is not None and self._may_go_back:
            for token in answer.tokens:
                self.request.on_token(self.request.number, len(self.request.before), token)

    @property
    def _may_go_back(self) -> bool:
        return bool(self.request.options.constraints)

    def answer(self, end: int | None = None, logprob: float = 0.0) -> Answer:
        logprobs = [*self.logprobs, logprob] if end is not None else self.logprobs
        return make_answer(
            self.tokens,
            sum(logprobs),
            ended=end is not None,
            length_penalty=self.request.options.length_penalty,
            logprobs=logprobs,
            end=end,
            stopped=self.stopped,
        )


@dataclass(slots=True)
class _Outcome:
    """A `Move` that is being put together."""

    rows: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    opens: list[bool] = field(default_factory=list)
    done: list[tuple[Request, list[tuple[Answer, ...]]]] = field(default_factory=list)
    again: list[Request] = field(default_factory=list)
    failed: list[tuple[Request, FlagaiError]] = field(default_factory=list)

    def keep(self, row: int, token: int, *, opens: bool = False) -> None:
        self.rows.append(row)
        self.tokens.append(token)
        self.opens.append(opens)

    def move(self, chosen: Tensor | None, device: torch.device) -> Move:
        """Args: chosen: the tokens on the device already, where every row goes on."""
        opens = torch.tensor(self.opens, device=device) if any(self.opens) else None
        tokens = chosen if chosen is not None and opens is None else torch.tensor(self.tokens, device=device)
        rows = torch.tensor(self.rows, dtype=torch.long, device=device)
        return Move(rows=rows, tokens=tokens.long(), opens=opens, done=self.done, again=self.again, failed=self.failed)
