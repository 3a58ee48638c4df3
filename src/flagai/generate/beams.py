"""Beam search: which rows go on, with which tokens, and the best answers at the end. Knows no model and no cache.

Scores become a few candidates a row on the device; what becomes of them is decided by `hypotheses.Group` in plain
numbers, after one transfer a step. Each request has its own beams, of its own length: requests may come at any step.

Groups of beams (`num_beam_groups`) are searched one after the other within a step, and what earlier groups chose in it
costs `diversity_penalty` each time (Hamming diversity: Vijayakumar et al., "Diverse Beam Search", 2016, algorithm 1).
As in their program the penalty stays in the sum that a beam is ranked by, and so in `Answer.score`; it is no part of
`Answer.logprob`. The same holds for what `repetition_penalty` makes of scores.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flagai.errors import FlagaiError
from flagai.generate.histories import Past
from flagai.generate.hypotheses import Beam, Candidate, Group, Rules
from flagai.generate.options import GenerationOptions
from flagai.generate.processors import no_numbers, no_token_allowed
from flagai.generate.ranking import best
from flagai.generate.requests import Answer, Request
from flagai.generate.search import Move, Setting


class Beams:
    """The beams of requests with the same options.

    A request comes with one row and has up to `num_beams` from its first step on; a beam that no token is allowed to
    has no row any more. Token for token the search of transformers 5 (`Setting.count_end`) or that of the original GLM.

    Args:
        options: those of all its requests, but for `max_new_tokens` and `seed`.
    """

    def __init__(self, options: GenerationOptions, setting: Setting) -> None:
        self._options, self._setting = options, setting
        self._rules = Rules(
            width=options.num_beams // options.num_beam_groups,
            end_ids=frozenset(setting.end_ids),
            length_penalty=options.length_penalty,
            early_stopping=options.early_stopping,
            count_end=setting.count_end,
            stops=setting.stops,
        )
        # Tokens that other groups chose may be among a row's best and fall behind: so many more are looked at.
        self._kept = self._rules.num_candidates + options.num_beams - self._rules.width
        self._hunts: list[_Hunt] = []
        self._totals: list[float] = []  # of the beam in each row
        self._history = Past(setting)

    def admit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._hunts.append(_Hunt.of(request, len(self._totals), self._rules, self._options.num_beam_groups))
            self._totals.append(sum(request.logprobs))
        prompts = [request.prompt for request in requests]
        self._history.add([prompt.ids for prompt in prompts], [prompt.written for prompt in prompts])

    def advance(self, scores: Tensor, hidden: Sequence[Tensor] | None = None) -> Move:
        candidates = self._candidates(scores)
        nothing = torch.empty(0, dtype=torch.long, device=self._setting.device)
        move = Move(rows=nothing, tokens=nothing)
        for hunt in self._hunts:
            before = hunt.beams
            if any(math.isnan(candidates[beam.row][0][0]) for beam in before):  # NaN is the highest of all
                move.failed.append((hunt.request, no_numbers()))
                hunt.give_up()
                continue
            hunt.advance(candidates, self._options.diversity_penalty)
            if hunt.done:
                self._finish(hunt, before, move)
        self._hunts = [hunt for hunt in self._hunts if not hunt.done]
        self._place(move)
        return move

    def drop(self, number: int) -> list[int]:
        gone = [beam.row for hunt in self._hunts if hunt.request.number == number for beam in hunt.beams]
        self._hunts = [hunt for hunt in self._hunts if hunt.request.number != number]
        beams = [beam for hunt in self._hunts for beam in hunt.beams]
        left = sorted({beam.row for beam in beams})
        places = {row: place for place, row in enumerate(left)}
        for beam in beams:
            beam.row = places[beam.row]
        self._totals = [self._totals[row] for row in left]
        self._history.keep(left)
        return sorted(set(gone))

    def _candidates(self, scores: Tensor) -> list[list[Candidate]]:
        """The best of each row, the best first."""
        logprobs = scores.log_softmax(1)
        processed = self._history.process(logprobs)
        values, tokens = best(processed, self._kept)
        # float32, as transformers adds them up: sums that are nearly equal are to fall on the same side
        totals = values + torch.tensor(self._totals, device=values.device)[:, None]
        found = torch.stack([totals.double(), tokens.double(), logprobs.gather(1, tokens).double()], 2)
        return [
            [(total, row, int(token), logprob) for total, token, logprob in one]
            for row, one in enumerate(found.tolist())
        ]

    def _finish(self, hunt: _Hunt, before: Sequence[Beam], move: Move) -> None:
        answers = hunt.answers
        if not answers:
            self._go_back(hunt.request, before, move)
        elif len(hunt.request.prompt.blanks) > 1:
            move.again.append(hunt.request.next_blank(answers[0]))
        else:
            several = answers[: self._options.num_return_sequences]
            move.done.append((hunt.request, [(*hunt.request.before, answer) for answer in several]))

    def _go_back(self, request: Request, beams: Sequence[Beam], move: Move) -> None:
        """No beam may go on, and there is no answer: search again without these beginnings, if constraints are why."""
        constraint = self._setting.constraint
        if constraint is None:
            move.failed.append((request, no_token_allowed()))
            return
        try:
            constraint.backtrack(beams[0].tokens, request.setbacks)
        except FlagaiError as error:
            move.failed.append((request, error))
            return
        for beam in beams[1:]:
            constraint.mark_dead(beam.tokens)
        move.again.append(dataclasses.replace(request, setbacks=request.setbacks + 1))

    def _place(self, move: Move) -> None:
        """A row for every beam that goes on: where it comes from and what it reads is put into the move."""
        beams = [beam for hunt in self._hunts for beam in hunt.beams]
        if not beams:
            self._totals = []
            self._history.keep([])
            return
        device = self._setting.device
        move.rows = torch.tensor([beam.row for beam in beams], device=device)
        move.tokens = torch.tensor([beam.tokens[-1] for beam in beams], device=device)
        for row, beam in enumerate(beams):
            beam.row = row
        self._totals = [beam.total for beam in beams]
        self._history.extend(move.rows, move.tokens, max(len(beam.tokens) for beam in beams))


@dataclass(slots=True)
class _Hunt:
    """A request with its groups of beams."""

    request: Request
    groups: list[Group]

    @classmethod
    def of(cls, request: Request, row: int, rules: Rules, groups: int) -> _Hunt:
        """All groups begin in the one row that the request comes with."""
        total, tokens = sum(request.logprobs), request.prompt.written
        beams = [[Beam(row, total, tokens, request.logprobs)] for _ in range(groups)]
        return cls(request, [Group(rules, beam, request.max_new_tokens) for beam in beams])

    @property
    def done(self) -> bool:
        return all(group.done for group in self.groups)

    def give_up(self) -> None:
        """Leave all rows."""
        for group in self.groups:
            group.done = True

    @property
    def beams(self) -> list[Beam]:
        """Those that have rows."""
        return [beam for group in self.groups if not group.done for beam in group.beams]

    @property
    def answers(self) -> list[Answer]:
        """The answers of all groups, the best first."""
        return sorted((answer for group in self.groups for answer in group.found), key=lambda one: -one.score)

    def advance(self, candidates: Sequence[Sequence[Candidate]], penalty: float) -> None:
        """One step of every group.

        Args:
            candidates: of every row of the search.
            penalty: taken off a token's sum for each earlier group that goes on with it.
        """
        chosen: Counter[int] = Counter()
        for group in self.groups:
            if group.done:
                continue
            possible = [candidate for beam in group.beams for candidate in candidates[beam.row]]
            if chosen:
                possible = [(total - penalty * chosen[token], row, token, p) for total, row, token, p in possible]
            possible.sort(key=lambda one: -one[0])
            group.advance(possible[: group.rules.num_candidates])
            if penalty:
                chosen.update(group.chosen)
