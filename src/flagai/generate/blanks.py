"""Fills the blanks of texts with a GLM: one after the other, each answer seeing those before it.

It knows tokens, not texts. Source: Du et al., "GLM", ACL 2022, section 2.1: an answer starts with <|startofpiece|>,
its tokens have the position of their mask and count a second position from 1, and <|endofpiece|> ends it.

A context is read once; then one token at a time goes through the model. An answer that `max_new_tokens` cuts off is
read to its last token before the next blank begins (the original leaves that token out, so that the next answer
could repeat it).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flagai.errors import ConfigError
from flagai.generate.beams import Answer, BeamSearch, make_answer
from flagai.generate.decoder import Decoder
from flagai.generate.options import GenerationOptions
from flagai.generate.processors import NOTHING, Processor, apply, make_processors, no_token_allowed
from flagai.generate.prompts import (
    Inputs,
    Prompt,
    Side,
    check_suppressed,
    end_ids,
    make_inputs,
    make_prompt,
    most_positions,
    settle,
    structural_ids,
)
from flagai.generate.sampling import draw, fresh_seed, most_probable, stream
from flagai.models.glm.inputs_checks import name_of

if TYPE_CHECKING:
    from flagai.models.glm.commands import Commands

Filling = tuple[Answer, ...]
"""an answer for each blank of a text, in order"""

OnToken = Callable[[int, int, int], None]
"""called with (number of the text, number of the blank, token id) as soon as a token is chosen"""

_Feed = tuple[int, int, int]
"""(token, position, block position)"""


def fill(
    model: Any,
    contexts: Sequence[Sequence[int]],
    *,
    commands: Commands,
    options: GenerationOptions | None = None,
    copies: Sequence[int] | None = None,
    padding_side: Side = "left",
    on_token: OnToken | None = None,
) -> list[list[Filling]]:
    """`num_return_sequences` fillings of each context, the best first where beams were searched.

    Results do not depend on what else is in the batch: texts of other lengths, with other numbers of blanks. A draw
    depends on the seed, the context and its number among equal ones. Beams are searched for one blank
    after the other, each with the best answers to those before it; several answers are then those to the last blank.

    Args:
        model: in evaluation mode; see `Decoder`.
        contexts: ids with masks, framed as the model wants them ([CLS] … eos).
        copies: for each context its number among equal ones, so that they draw differently; default: counted here.
        padding_side: where shorter contexts are padded; results do not depend on it.
        on_token: see `OnToken`; not for beams, whose answers are known only at the end.

    Raises:
        DataError: a context without a mask, with too many, or longer than the model reads.
        ConfigError: answers longer than the model's positions, suppressed tokens that it does not have, options that
            allow no token, or a callback where there is no one answer to follow.
    """
    prompts = [make_prompt(ids, commands, where=name_of(i, len(contexts))) for i, ids in enumerate(contexts)]
    options = settle(prompts, options or GenerationOptions(), most_positions(model))
    check_suppressed(options, model)
    if on_token is not None and (options.num_beams > 1 or options.num_return_sequences > 1):
        raise ConfigError(
            "tokens cannot be shown as they come where several answers are searched for",
            where="generate",
            fix="num_beams=1 and num_return_sequences=1",
        )
    if not prompts:
        return []
    numbers = _count_copies(prompts) if copies is None else list(copies)
    return _Filler(model, prompts, commands, options).run(padding_side, numbers, on_token)


def _count_copies(prompts: Sequence[Prompt]) -> list[int]:
    seen: Counter[tuple[int, ...]] = Counter()
    numbers = []
    for prompt in prompts:
        numbers.append(seen[prompt.ids])
        seen[prompt.ids] += 1
    return numbers


class _Filler:
    """What filling needs beside the rows: the same for all of them."""

    def __init__(self, model: Any, prompts: Sequence[Prompt], commands: Commands, options: GenerationOptions) -> None:
        self._prompts, self._commands, self._options = prompts, commands, options
        self._device = torch.device(getattr(model, "device", "cpu"))
        self._ends = end_ids(commands)
        forbidden = structural_ids(commands)
        self._processors: list[Processor] = make_processors(
            options, end_ids=self._ends, forbidden=forbidden, device=self._device
        )
        self._decoder = Decoder(model)

    @torch.inference_mode()
    def run(self, side: Side, numbers: Sequence[int], on_token: OnToken | None) -> list[list[Filling]]:
        sop, pad = self._commands.sop, self._commands.pad
        inputs = make_inputs(self._prompts, sop=sop, pad=pad, side=side, device=self._device)
        scores = self._start(inputs)
        return self._search(scores) if self._options.num_beams > 1 else self._write(scores, numbers, on_token)

    def _start(self, inputs: Inputs) -> Tensor:
        return self._decoder.feed(
            inputs.input_ids, inputs.position_ids, real=inputs.real, context_length=inputs.context_length
        )

    # -- one token after the other ------------------------------------------------------------------------------

    def _write(self, scores: Tensor, numbers: Sequence[int], on_token: OnToken | None) -> list[list[Filling]]:
        times = self._options.num_return_sequences
        rows = self._rows(numbers)
        if times > 1:
            self._decoder.repeat(times)
            scores = scores.repeat_interleave(times, 0)
        running, history = rows, torch.empty(len(rows), 0, dtype=torch.long, device=self._device)
        while running:
            chosen, logprobs = self._choose(running, history, scores)
            feeds = [row.take(*one, on_token) for row, one in zip(running, _pairs(chosen, logprobs), strict=True)]
            history = self._remember(history, chosen, running)
            running, feeds, history = self._drop_finished(running, feeds, history)
            if running:
                scores = self._feed([[one or (self._commands.sop, 0, 0)] for one in feeds])
        fillings = [tuple(row.answers) for row in rows]
        return [fillings[i : i + times] for i in range(0, len(fillings), times)]

    def _rows(self, numbers: Sequence[int]) -> list[_Row]:
        seed = fresh_seed() if self._options.seed is None else self._options.seed
        rows = []
        for i, (prompt, number) in enumerate(zip(self._prompts, numbers, strict=True)):
            for sequence in range(self._options.num_return_sequences):
                random = stream(seed, number, sequence, *prompt.ids)
                rows.append(_Row(i, prompt, random, self._commands.sop, self._ends, self._options))
        return rows

    def _choose(self, rows: Sequence[_Row], history: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        allowed = apply(self._processors, history, scores)
        chosen = draw(allowed, [row.random for row in rows]) if self._options.do_sample else most_probable(allowed)
        # A forbidden token is chosen only where all are: -inf tells it, in the transfer that is made anyway.
        forbidden = allowed.gather(1, chosen[:, None]) == -torch.inf
        logprobs = scores.log_softmax(1).gather(1, chosen[:, None]).masked_fill(forbidden, -torch.inf)
        return chosen, logprobs[:, 0]

    def _remember(self, history: Tensor, chosen: Tensor, rows: Sequence[_Row]) -> Tensor:
        if not self._processors:
            return history
        history = torch.cat([history, chosen[:, None]], 1)
        begun = [i for i, row in enumerate(rows) if not row.tokens]  # the next answer knows nothing of the last
        history[begun] = NOTHING
        return history

    def _drop_finished(
        self, rows: list[_Row], feeds: list[_Feed | None], history: Tensor
    ) -> tuple[list[_Row], list[_Feed | None], Tensor]:
        """Leave finished rows out once they are half of the batch: each time costs a copy of the cache."""
        left = [i for i, feed in enumerate(feeds) if feed is not None]
        if 2 * len(left) > len(rows) or not left:
            return (rows if left else []), feeds, history
        indices = torch.tensor(left, device=self._device)
        self._decoder.select(indices)
        return [rows[i] for i in left], [feeds[i] for i in left], history[indices]

    # -- beams --------------------------------------------------------------------------------------------------

    def _search(self, scores: Tensor) -> list[list[Filling]]:
        fillings: list[list[Filling]] = [[()] for _ in self._prompts]
        running, blank = list(range(len(self._prompts))), 0
        while running:
            following = [i for i in running if blank + 1 < len(self._prompts[i].blanks)]
            before = self._decoder.copy() if following else None
            found = self._beams(scores, [self._prompts[i].blanks[blank] for i in running])
            for i, answers in zip(running, found, strict=True):
                kept = 1 if i in following else self._options.num_return_sequences
                fillings[i] = [(*fillings[i][0], answer) for answer in answers[:kept]]
            if before is not None:
                self._decoder = before
                self._decoder.select(torch.tensor([running.index(i) for i in following], device=self._device))
                scores = self._feed([self._answered(self._prompts[i], fillings[i][0]) for i in following])
            running, blank = following, blank + 1
        return fillings

    def _beams(self, scores: Tensor, positions: Sequence[int]) -> list[list[Answer]]:
        """The answers to one blank of each row, whose first token's scores are given."""
        beams = self._options.num_beams
        search = BeamSearch(len(positions), self._options, end_ids=self._ends, device=self._device)
        self._decoder.repeat(beams)
        scores = scores.repeat_interleave(beams, 0)
        places = torch.tensor(positions, device=self._device).repeat_interleave(beams)
        while True:
            rows, tokens = search.advance(apply(self._processors, search.history, scores.log_softmax(1)))
            if search.done:
                return search.results()
            self._decoder.select(rows)
            blocks = torch.full_like(places, search.history.shape[1] + 1)
            scores = self._decoder.feed(tokens[:, None], torch.stack([places, blocks], 1)[:, :, None])

    def _answered(self, prompt: Prompt, filling: Filling) -> list[_Feed]:
        """The last answer as it is read, and the start of the next."""
        position = prompt.blanks[len(filling) - 1]
        tokens = (self._commands.sop, *filling[-1].tokens)
        feeds = [(token, position, block) for block, token in enumerate(tokens, start=1)]
        return [*feeds, (self._commands.sop, prompt.blanks[len(filling)], 1)]

    def _feed(self, rows: Sequence[Sequence[_Feed]]) -> Tensor:
        """The scores after each row's new tokens; shorter rows are padded on the left."""
        width = max(len(row) for row in rows)
        pad = (self._commands.pad, 0, 0)
        fed = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=self._device)
        real = None
        if any(len(row) < width for row in rows):
            real = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows], device=self._device)
        return self._decoder.feed(fed[:, :, 0], fed[:, :, 1:].transpose(1, 2), real=real)


@dataclass(slots=True)
class _Row:
    """One filling that is being written: takes tokens, says what the model reads next."""

    request: int
    prompt: Prompt
    random: torch.Generator
    sop: int
    ends: tuple[int, ...]
    options: GenerationOptions
    answers: list[Answer] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    cut_off: bool = False

    def take(self, token: int, logprob: float, on_token: OnToken | None) -> _Feed | None:
        """What the model reads next, None when all blanks are filled.

        Args:
            token, logprob: what was chosen; of no meaning right after an answer that was cut off.

        Raises:
            ConfigError: no token was allowed.
        """
        if len(self.answers) == len(self.prompt.blanks):
            return None
        if self.cut_off:
            return self._finish(ended=False)
        if logprob == -math.inf:
            raise no_token_allowed()
        self.logprob += logprob
        if token in self.ends:
            return self._finish(ended=True)
        self.tokens.append(token)
        if on_token is not None:
            on_token(self.request, len(self.answers), token)
        if len(self.tokens) == self.options.max_new_tokens:
            if len(self.answers) + 1 == len(self.prompt.blanks):
                return self._finish(ended=False)
            self.cut_off = True  # the next answer is to see the last token too
        return token, self.prompt.blanks[len(self.answers)], len(self.tokens) + 1

    def _finish(self, *, ended: bool) -> _Feed | None:
        penalty = self.options.length_penalty
        self.answers.append(make_answer(self.tokens, self.logprob, ended=ended, length_penalty=penalty))
        self.tokens, self.logprob, self.cut_off = [], 0.0, False
        if len(self.answers) == len(self.prompt.blanks):
            return None
        return self.sop, self.prompt.blanks[len(self.answers)], 1


def _pairs(chosen: Tensor, logprobs: Tensor) -> list[tuple[int, float]]:
    """(token, log p) of each row; both in one transfer from the device."""
    rows = torch.stack([chosen.double(), logprobs.double()], 1).tolist()
    return [(int(token), logprob) for token, logprob in rows]
