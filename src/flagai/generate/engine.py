"""Requests that join and leave between the steps of one running batch. Knows no family of models and no text.

Every step each search says which of its rows go on and with which tokens; then all rows of all searches are chosen and
fed at once. New requests are read as soon as there are rows for them. A request's answer does not depend on who else is
there: its random stream is its own, and so are its options.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flagai.errors import ConfigError, FlagaiError
from flagai.generate.options import GenerationOptions
from flagai.generate.requests import Filling, OnToken, Request
from flagai.generate.sampling import fresh_seed, stream
from flagai.generate.searches import make_search, rows_needed, settle_options
from flagai.generate.writers.base import Prompt, Writer

if TYPE_CHECKING:
    from flagai.generate.search import Move, Search

_NOT_KEPT = torch.empty(0)  # in place of the states of a row that no search asks for


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of a request: its fillings, the best first (or draw by draw), or why there are none."""

    number: int
    fillings: tuple[Filling, ...]
    error: FlagaiError | None = None


class Engine:
    """Decoding with a model, for as many requests at a time as there are rows.

    Args:
        writer: the model, see `flagai.generate.writers.make.make_writer`; its rows belong to this engine alone.
        tokenizer: needed for stop strings and constraints only.
        max_rows: rows of the running batch; a beam or a contrastive candidate is a row. None: no bound. A request that
            needs more of them than that runs alone.
    """

    def __init__(self, writer: Writer, *, tokenizer: Any = None, max_rows: int | None = None) -> None:
        if max_rows is not None and max_rows < 1:
            raise ConfigError(f"max_rows is {max_rows}", expected="a whole number ≥ 1", where="generate")
        self._writer, self._tokenizer, self._max_rows = writer, tokenizer, max_rows
        self._waiting: deque[Request] = deque()
        self._lanes: dict[Any, _Lane] = {}
        self._open: dict[int, _Open] = {}
        self._scores: Tensor | None = None
        self._hidden: list[Tensor] | None = None
        self._rows = 0
        self._submitted = 0
        self.steps = 0
        """how often the model was fed"""

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._open

    def submit(
        self,
        prompt: Prompt,
        options: GenerationOptions | None = None,
        *,
        copy: int = 0,
        on_token: OnToken | None = None,
        where: str = "",
    ) -> int:
        """Take in a request; its number.

        Args:
            copy: which of several equal prompts it is, so that they draw differently under one seed.
            on_token: called as tokens come; with constraints when the answer is complete, as tokens may be taken back.
            where: names the prompt in errors.

        Raises:
            DataError: an empty prompt, or one beyond the model.
            ConfigError: options that the model has no positions or tokens for, or that cannot be met.
        """
        options = settle_options(options or GenerationOptions(), self._writer, prompt, where=where)
        _check_followed(options, on_token)
        number = self._submitted
        self._lane(options, number)  # refuses what cannot be met before anything else is done
        self._submitted += 1
        # A search gives several answers by itself; draws are as many requests, which begin from one reading.
        times = options.num_return_sequences if options.do_sample else 1
        self._open[number] = _Open(times)
        seed = options.seed if options.seed is not None else fresh_seed() if options.do_sample else 0
        for sequence in range(times):
            random = stream(seed, copy, sequence, *prompt.ids) if options.do_sample else None
            request = Request(
                number=number, prompt=prompt, options=options, sequence=sequence, random=random, on_token=on_token
            )
            self._lane_of(request).open += 1
            self._waiting.append(request)
        return number

    @torch.inference_mode()
    def cancel(self, number: int) -> bool:
        """Give a request up; whether it was still there. Between steps only."""
        if self._open.pop(number, None) is None:
            return False
        self._forget_waiting(number)
        gone = set()
        for lane in self._lanes.values():
            dropped = set(lane.search.drop(number))
            gone |= {lane.rows[i] for i in dropped}
            lane.rows = [row for i, row in enumerate(lane.rows) if i not in dropped]
            lane.leave(-(-len(dropped) // rows_needed(lane.options)))
        if gone:
            self._keep([row for row in range(self._rows) if row not in gone])
        return True

    @torch.inference_mode()
    def step(self) -> list[Finished]:
        """Read new prompts, choose a token for every row, and feed them; the requests that this finished."""
        # Weights are used in the type they have: autocast would turn every one of them anew for every token.
        with torch.autocast(self._writer.device.type, enabled=False):
            self._admit()
            moves = [(lane, self._advance(lane)) for lane in self._lanes.values() if lane.rows]
            finished = [one for _, move in moves for one in self._settle(move)]
            self._feed(moves)
        self._lanes = {key: lane for key, lane in self._lanes.items() if lane.open}
        return finished

    def run(self) -> Iterator[Finished]:
        """Steps until nothing is left; requests as they finish. More may be submitted meanwhile."""
        while not self.idle:
            yield from self.step()

    # -- prompts ------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        requests = self._next_requests()
        if not requests:
            return
        self._writer.keep_hidden = any(request.options.penalty_alpha is not None for request in requests) or any(
            lane.needs_hidden for lane in self._lanes.values()
        )
        places: dict[Prompt, int] = {}
        order = [places.setdefault(request.prompt, len(places)) for request in requests]
        scores = self._writer.begin(list(places))
        hidden = list(self._writer.hidden()) if self._writer.keep_hidden else []
        if len(places) < len(requests):  # equal prompts are read once
            index = torch.tensor(order, device=scores.device)
            old = torch.arange(self._rows, device=scores.device)
            self._writer.select(torch.cat([old, self._rows + index]))
            scores, hidden = scores[index], [hidden[i] for i in order] if hidden else []
        self._scores = scores if self._scores is None or not self._rows else torch.cat([self._scores, scores])
        self._hidden = [*(self._hidden or [_NOT_KEPT] * self._rows), *hidden] if hidden else None
        for request in requests:
            self._lane_of(request).take(request, self._rows)
            self._rows += 1
        for lane in self._lanes.values():
            lane.admit()

    def _next_requests(self) -> list[Request]:
        taken: list[Request] = []
        rows = sum(rows_needed(lane.options) * lane.running for lane in self._lanes.values())
        while self._waiting:
            needed = rows_needed(self._waiting[0].options)
            if self._max_rows is not None and rows and rows + needed > self._max_rows:
                break
            rows += needed
            taken.append(self._waiting.popleft())
        return taken

    def _lane_of(self, request: Request) -> _Lane:
        return self._lane(request.options, request.number)

    def _lane(self, options: GenerationOptions, number: int) -> _Lane:
        """The search for such requests, new where there is none; ConfigError for constraints that cannot be met."""
        # Requests that differ only in their seed share a search, and draws also where they differ in length.
        key: Any = dataclasses.replace(options, max_new_tokens=None, min_new_tokens=0, seed=None)
        own_length = key.constraints or rows_needed(key) > 1
        # What the setbacks of one request have ruled out must not bear on another: with constraints each has its own.
        only = number if key.constraints else None
        key = (key, options.min_new_tokens, options.max_new_tokens if own_length else None, only)
        if key not in self._lanes:
            self._lanes[key] = _Lane(make_search(options, self._writer, self._tokenizer), options)
        return self._lanes[key]

    def _forget_waiting(self, number: int) -> None:
        for request in self._waiting:
            if request.number == number:
                self._lane_of(request).open -= 1
        self._waiting = deque(request for request in self._waiting if request.number != number)

    # -- steps --------------------------------------------------------------------------------------------------

    def _advance(self, lane: _Lane) -> Move:
        assert self._scores is not None
        whole = lane.rows == list(range(self._rows))
        scores = self._scores if whole else self._scores[torch.tensor(lane.rows, device=self._scores.device)]
        hidden = [self._hidden[row] for row in lane.rows] if lane.needs_hidden and self._hidden else None
        return lane.search.advance(scores, hidden)

    def _settle(self, move: Move) -> Iterator[Finished]:
        for request in move.again:
            self._waiting.appendleft(request)
        for request, fillings in move.done:
            yield from self._collect(request, fillings)
        for request, error in move.failed:
            if self._open.pop(request.number, None) is not None:
                self._forget_waiting(request.number)
                yield Finished(request.number, (), error)

    def _collect(self, request: Request, fillings: Sequence[Filling]) -> Iterator[Finished]:
        place = self._open.get(request.number)
        if place is None:  # another draw of it has failed
            return
        place.found[request.sequence] = tuple(fillings)
        if len(place.found) == place.times:
            del self._open[request.number]
            in_order = [filling for i in range(place.times) for filling in place.found[i]]
            yield Finished(request.number, tuple(in_order))

    def _feed(self, moves: Sequence[tuple[_Lane, Move]]) -> None:
        """The rows that go on, search by search, and their tokens."""
        rows: list[int] = []
        for lane, move in moves:
            lane.leave(len(move.done) + len(move.failed))
            lane.running -= len(move.again)
            chosen = [lane.rows[i] for i in move.rows.tolist()]
            lane.rows = list(range(len(rows), len(rows) + len(chosen)))
            rows += chosen
        if rows != list(range(self._rows)):
            self._writer.select(torch.tensor(rows, dtype=torch.long, device=self._writer.device))
        self._rows = len(rows)
        if not rows:
            self._scores, self._hidden = None, None
            return
        tokens = moves[0][1].tokens if len(moves) == 1 else torch.cat([move.tokens for _, move in moves])
        self._writer.keep_hidden = any(lane.needs_hidden for lane, _ in moves)
        self._scores = self._writer.feed(tokens, _opens([move for _, move in moves]))
        self._hidden = list(self._writer.hidden()) if self._writer.keep_hidden else None
        self.steps += 1

    def _keep(self, rows: list[int]) -> None:
        index = torch.tensor(rows, dtype=torch.long, device=self._writer.device)
        self._writer.select(index)
        self._scores = None if self._scores is None else self._scores[index]
        self._hidden = None if self._hidden is None else [self._hidden[row] for row in rows]
        places = {row: place for place, row in enumerate(rows)}
        for lane in self._lanes.values():
            lane.rows = [places[row] for row in lane.rows]
        self._rows = len(rows)


@dataclass(slots=True)
class _Open:
    """A submitted request that is not finished: how many answers it wants by draws, and those that are there."""

    times: int
    found: dict[int, tuple[Filling, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class _Lane:
    """A search, and where its rows are in the batch."""

    search: Search
    options: GenerationOptions
    rows: list[int] = field(default_factory=list)
    open: int = 0
    """requests that wait or run"""
    running: int = 0
    new: list[Request] = field(default_factory=list)

    @property
    def needs_hidden(self) -> bool:
        return self.options.penalty_alpha is not None

    def take(self, request: Request, row: int) -> None:
        self.rows.append(row)
        self.running += 1
        self.new.append(request)

    def leave(self, count: int) -> None:
        self.running -= count
        self.open -= count

    def admit(self) -> None:
        if self.new:
            self.search.admit(self.new)
            self.new = []


def _opens(moves: Sequence[Move]) -> Tensor | None:
    if all(move.opens is None for move in moves):
        return None
    return torch.cat(
        [torch.zeros_like(move.tokens, dtype=torch.bool) if move.opens is None else move.opens for move in moves]
    )


def _check_followed(options: GenerationOptions, on_token: OnToken | None) -> None:
    several = options.num_beams > 1 or options.num_return_sequences > 1 or options.penalty_alpha is not None
    if on_token is not None and several:
        raise ConfigError(
            "tokens cannot be shown as they come where several answers are searched for",
            where="generate",
            fix="num_beams=1 and num_return_sequences=1",
        )
