"""Runs a search without engine and cache: every row is read anew at every step, one row at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flagai.generate.options import GenerationOptions
from flagai.generate.requests import Answer, Request
from flagai.generate.search import Move, Search
from flagai.generate.writers.base import Prompt

Read = Callable[[Sequence[int], Sequence[int]], tuple[Tensor, Tensor]]
"""(prompt, what was written) → scores [V] of what comes next, states [n, H] of all that was read"""


def ask(number: int, ids: Sequence[int], options: GenerationOptions, **fields: Any) -> Request:
    """A request for an answer to a prompt."""
    written = tuple(fields.pop("written", ()))
    return Request(number=number, prompt=Prompt(ids=tuple(ids), written=written), options=options, **fields)


def run(search: Search, arrivals: Mapping[int, Sequence[Request]], read: Read, steps: int = 1000) -> dict[int, Any]:
    """What became of each request: its answers, or the error.

    Args:
        arrivals: the step at which requests join → those requests.
    """
    waiting = {step: list(requests) for step, requests in arrivals.items()}
    rows: list[tuple[Request, list[int], bool]] = []  # the last: whether it was just begun
    found: dict[int, Any] = {}
    for step in range(steps):
        new = waiting.pop(step, [])
        if not (rows or new or waiting):
            return found
        search.admit(new)
        rows += [(request, list(request.prompt.written), True) for request in new]
        move = search.advance(*_read(rows, read))
        rows = _next(rows, move)
        for request, fillings in move.done:
            found[request.number] = [answer for (answer,) in fillings]
        found |= {request.number: error for request, error in move.failed}
        waiting.setdefault(step + 1, []).extend(move.again)
        waiting = {when: requests for when, requests in waiting.items() if requests}
    raise AssertionError("the search does not end")


def _read(rows: Sequence[tuple[Request, list[int], bool]], read: Read) -> tuple[Tensor, list[Tensor]]:
    both = [read(request.prompt.ids, tokens) for request, tokens, _ in rows]
    states = [one if begun else one[-1:] for (_, one), (_, _, begun) in zip(both, rows, strict=True)]
    return torch.stack([scores for scores, _ in both]), states


def _next(rows: Sequence[tuple[Request, list[int], bool]], move: Move) -> list[tuple[Request, list[int], bool]]:
    pairs = zip(move.rows.tolist(), move.tokens.tolist(), strict=True)
    return [(rows[row][0], [*rows[row][1], token], False) for row, token in pairs]


def reader(model: Any) -> Read:
    """Of a decoder of Hugging Face."""

    def read(ids: Sequence[int], written: Sequence[int]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            outputs = model(torch.tensor([[*ids, *written]]), output_hidden_states=True)
        return outputs.logits[0, -1].float(), outputs.hidden_states[-1][0]

    return read


def tokens_of(answers: Sequence[Answer]) -> list[tuple[int, ...]]:
    """With the ends, as Hugging Face gives them."""
    return [answer.tokens + (() if answer.end is None else (answer.end,)) for answer in answers]
