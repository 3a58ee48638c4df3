"""What a search is: it turns scores into the rows that go on and their tokens. Knows no model and no cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from flagai.errors import FlagaiError
from flagai.generate.processors import Processor
from flagai.generate.requests import Filling, Request

if TYPE_CHECKING:
    from flagai.generate.constraints.processor import ConstraintProcessor


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a search needs beside its options.

    Args:
        end_ids: tokens that end an answer.
        processors: what the options make of scores before a token is chosen, in order; the constraint, if any, last
            of those that forbid and in front of temperature and the like.
        constraint: the one among `processors`; for going back where no token is allowed.
        stops: whether an answer ends with one of the stop strings; None where there are none.
        continues: whether answers go on from their prompts in one text (decoders): penalties of repetition count
            these too.
        count_end: whether beams count the end token as a part of an answer's length (all families but GLM).
    """

    device: torch.device
    end_ids: tuple[int, ...]
    processors: Sequence[Processor] = ()
    constraint: ConstraintProcessor | None = None
    stops: Callable[[Sequence[int]], bool] | None = None
    continues: bool = False
    count_end: bool = True


@dataclass(slots=True, kw_only=True)
class Move:
    """One step of a search.

    Args:
        rows: int64 [n], indices into the rows that the search had; finished requests are in none of them.
        tokens: int64 [n], what each of `rows` reads next.
        opens: bool [n], see `Writer.feed`; None where no row begins its next blank.
        done: requests that are finished, the best filling first.
        again: requests to be begun again, from another prompt than before.
        failed: requests that cannot be answered, and why.
    """

    rows: Tensor
    tokens: Tensor
    opens: Tensor | None = None
    done: list[tuple[Request, list[Filling]]] = field(default_factory=list)
    again: list[Request] = field(default_factory=list)
    failed: list[tuple[Request, FlagaiError]] = field(default_factory=list)


class Search(Protocol):
    """Requests with the same options, side by side; they may come at any step and leave at any step."""

    def admit(self, requests: Sequence[Request]) -> None:
        """Take in requests whose prompts were read just now: one new row each, behind the search's rows.

        `Prompt.written` of a request is a part of its answer: it counts for processors and for `max_new_tokens`.
        """
        ...

    def advance(self, scores: Tensor, hidden: Sequence[Tensor] | None = None) -> Move:
        """The next tokens.

        Args:
            scores: fp32 [rows, V], of what comes next in each row of the search.
            hidden: see `Writer.hidden`, for the same rows: [tokens, H] for those that were admitted just now.
        """
        ...

    def drop(self, number: int) -> list[int]:
        """Forget a request that is no longer wanted; the indices of the rows that it had."""
        ...
