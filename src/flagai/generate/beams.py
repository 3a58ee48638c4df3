"""Beam search over the scores of any model: which rows go on, with which token, and the best answers at the end.

It knows no model and no cache: it says which rows to keep (`Decoder.select`) and which tokens to feed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flagai.generate.options import GenerationOptions
from flagai.generate.processors import no_token_allowed

_NEVER = -1e9  # the sum of a beam that has no part in the search; finite, so that its rows still rank


@dataclass(frozen=True, slots=True)
class Answer:
    """What stands in one place at the end.

    Args:
        tokens: without start and end.
        logprob: Σ log p of the tokens and, where it ended by itself, of its end.
        score: logprob / len(tokens)**length_penalty.
        ended: whether by an end token; otherwise by `max_new_tokens`.
    """

    tokens: tuple[int, ...]
    logprob: float
    score: float
    ended: bool


def make_answer(tokens: Sequence[int], logprob: float, *, ended: bool, length_penalty: float) -> Answer:
    """An answer with its score; an empty one counts as one token long (the original divides by zero there)."""
    score = logprob / max(len(tokens), 1) ** length_penalty
    return Answer(tokens=tuple(tokens), logprob=logprob, score=score, ended=ended)


class BeamSearch:
    """The beams of several requests, `num_beams` neighbouring rows each.

    Of the best candidates of a request those that end it and rank among the first `num_beams` become answers, and the
    first `num_beams` others the next beams. A request is done when it has `num_beams` answers and the worst of them is
    no worse than the best candidate's sum over its length (or at once with `early_stopping`). This is the search of
    the original GLM (and of transformers before its vectorised one), with lengths counted without start and end token.

    Args:
        requests: how many.
        options: `num_beams`, `length_penalty`, `early_stopping`, `max_new_tokens`.
        end_ids: tokens that end an answer.
    """

    def __init__(
        self, requests: int, options: GenerationOptions, *, end_ids: Sequence[int], device: torch.device
    ) -> None:
        self._options, self._end_ids, self._beams = options, frozenset(end_ids), options.num_beams
        self._sums = torch.full((requests, self._beams), _NEVER, device=device)
        self._sums[:, 0] = 0.0  # all beams of a request start equal: only one may have children
        self._found: list[list[Answer]] = [[] for _ in range(requests)]
        self._done = [False] * requests
        self.history = torch.empty(requests * self._beams, 0, dtype=torch.long, device=device)
        """the tokens of each row, int64 [rows, steps]"""

    @property
    def done(self) -> bool:
        """Whether every request is, or the answers are as long as they may be."""
        return all(self._done) or self.history.shape[1] == self._options.max_new_tokens

    def advance(self, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        """One step: (the rows to go on with, the token that each of them gets), both int64 [rows].

        Args:
            logprobs: [rows, V], log-probabilities of the next token after the processors.

        Raises:
            ConfigError: no token was allowed to a request that has no answer yet.
        """
        width = logprobs.shape[1]
        totals = (self._sums.flatten()[:, None] + logprobs).view(len(self._done), -1)
        sums, places = totals.topk(min(self._beams * (1 + len(self._end_ids)), totals.shape[1]))
        kept = [self._step(*one, width) for one in zip(range(len(sums)), sums.tolist(), places.tolist(), strict=True)]
        device = logprobs.device
        rows, tokens = (torch.tensor([one[i] for beams in kept for one in beams], device=device) for i in (0, 1))
        self._sums = torch.tensor([[one[2] for one in beams] for beams in kept], device=device)
        self.history = torch.cat([self.history[rows], tokens[:, None]], 1)
        return rows, tokens

    def results(self) -> list[list[Answer]]:
        """The answers of each request, the best first: at most `num_beams`, running beams counted."""
        for i, (found, done) in enumerate(zip(self._found, self._done, strict=True)):
            if not done:
                for beam, total in enumerate(self._sums[i].tolist()):
                    if total > _NEVER / 2:
                        self._add(found, i * self._beams + beam, total, ended=False)
        return self._found

    def _step(self, request: int, sums: list[float], places: list[int], width: int) -> list[tuple[int, int, float]]:
        """(row, token, sum) of the request's next beams; new answers go to `_found`."""
        found, first = self._found[request], request * self._beams
        beams: list[tuple[int, int, float]] = []
        for rank, (total, place) in enumerate(zip(sums, places, strict=True)):
            row, token = first + place // width, place % width
            if token not in self._end_ids:
                beams.append((row, token, total))
            elif rank < self._beams and not self._done[request] and total > _NEVER / 2:
                self._add(found, row, total, ended=True)
            if len(beams) == self._beams:
                break
        nothing_left = sums[0] <= _NEVER / 2  # every token is forbidden to every beam
        if nothing_left and not found:
            raise no_token_allowed()
        self._done[request] = self._done[request] or nothing_left or self._is_done(found, sums[0])
        # Only a vocabulary smaller than the search leaves beams over: they go on without a part in it.
        return beams + [(first, 0, _NEVER)] * (self._beams - len(beams))

    def _add(self, found: list[Answer], row: int, total: float, *, ended: bool) -> None:
        tokens = self.history[row].tolist()
        found.append(make_answer(tokens, total, ended=ended, length_penalty=self._options.length_penalty))
        found.sort(key=lambda one: one.score, reverse=True)
        del found[self._beams :]

    def _is_done(self, found: list[Answer], best_sum: float) -> bool:
        if len(found) < self._beams:
            return False
        length = max(self.history.shape[1], 1)
        return self._options.early_stopping or found[-1].score >= best_sum / length**self._options.length_penalty
