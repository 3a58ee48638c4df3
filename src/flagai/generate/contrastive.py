"""Contrastive search: a token that is probable, and whose state is unlike all states before it. Knows no model.

Source: Su et al., "A Contrastive Framework for Neural Text Generation" (SimCTG), 2022, section 4.2: of the k most
probable tokens v, the one with the highest (1 - α) p(v | x) - α max cos(h_v, h_j), over the states h_j of what was read
and written before. Each candidate is a row that has read its token, so that the next token's scores are there already
when a candidate is chosen: one pass of the model a step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize

from flagai.errors import FlagaiError
from flagai.generate.histories import Past
from flagai.generate.options import GenerationOptions
from flagai.generate.processors import no_numbers, no_token_allowed
from flagai.generate.ranking import best
from flagai.generate.requests import Answer, Request, make_answer
from flagai.generate.search import Move, Setting


class Contrastive:
    """Requests with the same options, up to `top_k` rows each: one for every candidate of the next token.

    A token that processors forbid is no candidate. The model reads the last token of an answer too, its end for
    instance: an answer needs one position more than it has tokens.

    Args:
        options: `penalty_alpha` (α) and `top_k` (k) of all its requests.
    """

    def __init__(self, options: GenerationOptions, setting: Setting) -> None:
        assert options.penalty_alpha is not None
        self._alpha, self._k, self._setting = options.penalty_alpha, options.top_k, setting
        self._texts: list[_Text] = []

    def admit(self, requests: Sequence[Request]) -> None:
        self._texts += [_Text(request) for request in requests]

    def advance(self, scores: Tensor, hidden: Sequence[Tensor] | None = None) -> Move:
        assert hidden is not None, "contrastive search compares hidden states"
        nothing = torch.empty(0, dtype=torch.long, device=self._setting.device)
        move = Move(rows=nothing, tokens=nothing)
        rows = self._choose(hidden)
        going = [(text, row) for text, row in zip(self._texts, rows, strict=True) if not self._ends(text, move)]
        self._texts = [text for text, _ in going]
        if going:
            self._propose(scores, [row for _, row in going], move)
        return move

    def drop(self, number: int) -> list[int]:
        gone = [
            first + i
            for text, first in zip(self._texts, self._firsts(), strict=True)
            if text.request.number == number
            for i in range(text.num_rows)
        ]
        self._texts = [text for text in self._texts if text.request.number != number]
        return gone

    def _firsts(self) -> list[int]:
        """The first row of each text."""
        firsts, row = [], 0
        for text in self._texts:
            firsts.append(row)
            row += text.num_rows
        return firsts

    def _choose(self, hidden: Sequence[Tensor]) -> list[int]:
        """Take the best candidate of each text; the rows in which they were read."""
        firsts = self._firsts()
        states = [
            torch.cat(list(hidden[first : first + text.num_rows])).float()
            for text, first in zip(self._texts, firsts, strict=True)
        ]
        values = [text.compare(one, self._alpha) for text, one in zip(self._texts, states, strict=True)]
        chosen = torch.stack(values).tolist()  # one transfer for all
        for text, one, index in zip(self._texts, states, chosen, strict=True):
            text.take(one, index)
        return [first + index for first, index in zip(firsts, chosen, strict=True)]

    def _ends(self, text: _Text, move: Move) -> bool:
        """Whether the token taken last is the end of the text's answer; what follows from that goes into the move."""
        answer = text.answer(self._setting)
        if answer is None:
            return False
        if len(text.request.prompt.blanks) > 1:
            move.again.append(text.request.next_blank(answer))
        else:
            move.done.append((text.request, [(*text.request.before, answer)]))
        return True

    def _propose(self, scores: Tensor, rows: Sequence[int], move: Move) -> None:
        """The candidates of each text for its next token, and a row for each of them."""
        scores = scores[torch.tensor(rows, device=scores.device)]
        history = Past(self._setting)
        history.add([text.request.prompt.ids for text in self._texts], [text.tokens for text in self._texts])
        allowed = history.process(scores)
        _, tokens = best(allowed, self._k)
        probabilities = allowed.softmax(1).gather(1, tokens)
        logprobs = scores.log_softmax(1).gather(1, tokens)
        possible = allowed.gather(1, tokens) > -torch.inf
        counts = possible.sum(1).tolist()
        found = zip(counts, tokens.tolist(), logprobs.tolist(), probabilities, strict=True)
        for text, (count, ids, likely, ps) in zip(self._texts, found, strict=True):
            text.candidates, text.likely, text.probabilities = ids[:count], likely[:count], ps[:count]
            if not count and math.isnan(likely[0]):
                move.failed.append((text.request, no_numbers()))
            elif not count:
                self._go_back(text, move)
        parents = [row for row, count in zip(rows, counts, strict=True) for _ in range(count)]
        self._texts = [text for text in self._texts if text.candidates]
        move.rows = torch.tensor(parents, dtype=torch.long, device=scores.device)
        move.tokens = tokens[possible]

    def _go_back(self, text: _Text, move: Move) -> None:
        constraint, request = self._setting.constraint, text.request
        if constraint is None:
            move.failed.append((request, no_token_allowed()))
            return
        try:
            length = constraint.backtrack(tuple(text.tokens), request.setbacks)
        except FlagaiError as error:
            move.failed.append((request, error))
            return
        prompt = dataclasses.replace(request.prompt, written=tuple(text.tokens[:length]))
        logprobs, setbacks = tuple(text.logprobs[:length]), request.setbacks + 1
        move.again.append(dataclasses.replace(request, prompt=prompt, logprobs=logprobs, setbacks=setbacks))


@dataclass(slots=True)
class _Text:
    """A request, what is written of its answer, and the candidates for the next token.

    Args:
        context: [n, H], states of everything read and written, of length 1.
        candidates, likely, probabilities: the tokens that its rows read last, their log p under the model, and their
            probabilities [k] after the processors; nothing before the first.
    """

    request: Request
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    context: Tensor | None = None
    candidates: list[int] = field(default_factory=list)
    likely: list[float] = field(default_factory=list)
    probabilities: Tensor | None = None

    def __post_init__(self) -> None:
        self.tokens, self.logprobs = list(self.request.prompt.written), list(self.request.logprobs)

    @property
    def num_rows(self) -> int:
        return max(len(self.candidates), 1)

    def compare(self, states: Tensor, alpha: float) -> Tensor:
        """Which candidate is the best, int64 []; 0 before the first.

        Args:
            states: [k, H], of the candidates.
        """
        if self.context is None or self.probabilities is None:
            return torch.zeros((), dtype=torch.long, device=states.device)
        likeness = (normalize(states, dim=1) @ self.context.T).amax(1)
        return ((1 - alpha) * self.probabilities - alpha * likeness).argmax()

    def take(self, states: Tensor, index: int) -> None:
        """Go on with a candidate; or with the prompt, whose states [n, H] they are then."""
        if self.context is None:
            self.context = normalize(states, dim=1)
            return
        self.context = torch.cat([self.context, normalize(states[index : index + 1], dim=1)])
        self.tokens.append(self.candidates[index])
        self.logprobs.append(self.likely[index])

    def answer(self, setting: Setting) -> Answer | None:
        """The answer, if the last token ends it."""
        if not self.candidates:  # nothing was chosen yet
            return None
        ended = self.tokens[-1] in setting.end_ids
        stopped = not ended and setting.stops is not None and setting.stops(self.tokens)
        if not (ended or stopped or len(self.tokens) == self.request.max_new_tokens):
            return None
        return make_answer(
            self.tokens[:-1] if ended else self.tokens,
            sum(self.logprobs),
            ended=ended,
            length_penalty=self.request.options.length_penalty,
            logprobs=self.logprobs,
            end=self.tokens[-1] if ended else None,
            stopped=stopped,
        )
