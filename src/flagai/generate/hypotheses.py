"""One group of beams: which of its candidates go on and which are answers. Plain numbers; knows no tensor and no model.

Two rules end a search, and both are kept to the letter because the answers differ:

* that of transformers (`_beam_search` of 5.x): an answer's length counts its end token, only candidates among the first
  `width` become answers when the length runs out, and the search is over when the best beam that still runs could not
  become better than the worst of `width` answers;
* that of the original GLM (which took it from transformers 3): the end token is not counted, all beams that run become
  answers when the length runs out, and the best candidate is compared, whether it ends or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from flagai.generate.requests import Answer, Finish

Candidate = tuple[float, int, int, float]
"""(sum that it is ranked by, row that it continues, token, log p of the token under the model)"""

NO_CHANCE: Final = -math.inf
"""the sum of a candidate with a forbidden token"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a group is searched.

    Args:
        width: beams of the group.
        early_stopping: True, False or "never", see `GenerationOptions`.
        count_end: the rule of transformers; without it that of the original GLM.
        stops: whether tokens end with a stop string.
    """

    width: int
    end_ids: frozenset[int]
    length_penalty: float
    early_stopping: bool | Literal["never"]
    count_end: bool = True
    stops: Callable[[Sequence[int]], bool] | None = None

    @property
    def num_candidates(self) -> int:
        """How many of the best candidates are looked at: so many that `width` of them do not end."""
        return max(2, 1 + len(self.end_ids)) * self.width

    def score(self, total: float, length: int) -> float:
        """A sum over a length; a length of 0 counts as 1."""
        return total / max(length, 1) ** self.length_penalty


@dataclass(slots=True)
class Beam:
    """A beginning of an answer.

    Args:
        row: where its scores are.
        total: what it is ranked by: Σ of the processed log p of its tokens.
        logprobs: log p of its tokens under the model.
    """

    row: int
    total: float
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(slots=True)
class Group:
    """Beams that compete with one another, and the answers found so far, the best first.

    Args:
        most: tokens of an answer at most.
        chosen: tokens that beams took in the last step, whether the length ran out or not.
    """

    rules: Rules
    beams: list[Beam]
    most: int
    found: list[Answer] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    done: bool = False

    def advance(self, candidates: Iterable[Candidate]) -> None:
        """One step: `beams` are then those to go on with.

        Args:
            candidates: the best `rules.num_candidates`, the best first, each continuing one of `beams`.
        """
        possible = [candidate for candidate in candidates if candidate[0] > NO_CHANCE]
        parents = {beam.row: beam for beam in self.beams}
        length = len(self.beams[0].tokens)
        self.beams, self.chosen = [], []
        for rank, (total, row, token, logprob) in enumerate(possible):
            if len(self.chosen) == self.rules.width:  # so many are before it that it cannot become an answer either
                break
            parent, finish = parents[row], self._finish(parents[row], token)
            if finish in (None, "length"):
                self.chosen.append(token)
            if finish is None:
                logprobs = (*parent.logprobs, logprob)
                self.beams.append(Beam(row, total, (*parent.tokens, token), logprobs))
            elif rank < self.rules.width:
                self._add(parent, finish, total, token, logprob)
        self._close(possible[0][0] if possible else NO_CHANCE, length)

    def _finish(self, parent: Beam, token: int) -> Finish | None:
        """What the token ends the answer by, if it does."""
        if token in self.rules.end_ids:
            return "end"
        if self.rules.stops is not None and self.rules.stops((*parent.tokens, token)):
            return "stop"
        return "length" if self.rules.count_end and len(parent.tokens) + 1 == self.most else None

    def _add(self, parent: Beam, finish: Finish, total: float, token: int, logprob: float) -> None:
        ended = finish == "end"
        tokens = parent.tokens if ended else (*parent.tokens, token)
        length = len(tokens) + (ended and self.rules.count_end)
        logprobs = (*parent.logprobs, logprob)
        self._keep(
            Answer(
                tokens=tokens,
                logprob=sum(logprobs),
                score=self.rules.score(total, length),
                ended=ended,
                logprobs=logprobs,
                end=token if ended else None,
                finish=finish,
            )
        )

    def _keep(self, answer: Answer) -> None:
        self.found.append(answer)
        self.found.sort(key=lambda one: one.score, reverse=True)
        del self.found[self.rules.width :]

    def _close(self, best: float, length: int) -> None:
        """Decide whether the group is done.

        Args:
            best: sum of the best candidate.
            length: tokens of the beams before this step.
        """
        if self.rules.count_end:
            self.done = not self.beams or self._no_better(self.beams[0].total, length + 1)
            return
        self.done = self._no_better(best, length)
        if not self.done and length + 1 == self.most:
            for beam in self.beams:
                score = self.rules.score(beam.total, len(beam.tokens))
                self._keep(Answer(beam.tokens, sum(beam.logprobs), score, ended=False, logprobs=beam.logprobs))
        self.done = self.done or not self.beams or length + 1 == self.most

    def _no_better(self, total: float, length: int) -> bool:
        """Whether there are `width` answers and a beam with this sum and length is not expected to become better."""
        if len(self.found) < self.rules.width:
            return False
        if self.rules.early_stopping is True:
            return True
        if self.rules.early_stopping == "never" and self.rules.length_penalty > 0:
            length = self.most
        return self.found[-1].score >= self.rules.score(total, length)
