"""Constraints as a processor of scores: a pure function of each row's history. Knows tokens and text, no search.

A token is allowed where the text can still be finished behind it, by what is left of `max_new_tokens`; the end is
allowed where the text meets every constraint. What characters cannot tell (WordPieces that fit no word, n-grams that
may not come twice) can still leave a row without any token: then `backtrack` says where to go on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from flagai.errors import ConfigError
from flagai.generate.constraints.compile import compile_machine
from flagai.generate.constraints.machine import Machine, State
from flagai.generate.constraints.product import FAR
from flagai.generate.constraints.spec import Constraint, Length
from flagai.generate.constraints.vocabulary import Vocabulary

_KEPT: Final = 1 << 16
_MOST_SETBACKS: Final = 256
_PATIENCE: Final = 16  # setbacks by one token, by two, …

Tokens = tuple[int, ...]


class ConstraintProcessor:
    """Forbids what leads to no answer that meets the constraints.

    Args:
        machine: the constraints on the text; None where there are only bounds on the number of tokens.
        end_ids: tokens that end an answer.
        max_new_tokens: most tokens of an answer, its end not counted.
        least, most: bounds on the number of tokens, its end not counted.
    """

    def __init__(
        self,
        machine: Machine | None,
        *,
        end_ids: Sequence[int],
        max_new_tokens: int,
        least: int = 0,
        most: int | None = None,
    ) -> None:
        self._machine, self._least = machine, least
        self._ends = sorted(set(end_ids))
        self.most_tokens = max_new_tokens if most is None else min(max_new_tokens, most)
        """tokens that an answer may have: it is finished by then"""
        self._states: OrderedDict[Tokens, State | None] = OrderedDict()
        self._dead: dict[Tokens, set[int]] = {}

    def __call__(self, history: Tensor, scores: Tensor) -> Tensor:
        """Scores with -inf for what is not allowed; a row that has no way on gets nothing else.

        Args:
            history: int64 [rows, n], aligned to the right, filled up with negative numbers.
            scores: [rows, V].
        """
        width = scores.shape[1]
        rows = [tuple(token for token in row if token >= 0) for row in history.tolist()]
        # Rows that stand at the same place, as many do in a large batch, share one mask.
        kinds: dict[Hashable, int] = {}
        masks: list[np.ndarray] = []
        which = []
        for tokens in rows:
            key = tokens if tokens in self._dead else (self._state(tokens), len(tokens))
            if key not in kinds:
                kinds[key] = len(masks)
                masks.append(self._forbidden(tokens, width))
            which.append(kinds[key])
        if not rows:
            return scores
        mask = torch.from_numpy(np.stack(masks)).to(scores.device)
        return scores.masked_fill(mask[torch.tensor(which, device=scores.device)], -torch.inf)

    def allowed(self, tokens: Sequence[int], width: int) -> np.ndarray:
        """Bool [width]: which tokens, the ends among them, may follow these."""
        return ~self._forbidden(tuple(tokens), width)

    def satisfied(self, tokens: Sequence[int]) -> bool:
        """Whether an answer of these tokens, without its end, meets all constraints."""
        good = self._least <= len(tokens) <= self.most_tokens
        if self._machine is None or not good:
            return good
        state = self._state(tuple(tokens))
        return state is not None and self._machine.accepts(state)

    def mark_dead(self, tokens: Sequence[int]) -> None:
        """Never let an answer begin with these tokens again, in any row."""
        self._dead.setdefault(tuple(tokens[:-1]), set()).add(tokens[-1])

    def backtrack(self, tokens: Sequence[int], setbacks: int = 0) -> int:
        """How many of the tokens stay where nothing may follow them; the way on from there is closed.

        One is taken back; as setbacks add up more and more are, since what has gone wrong may lie further back.

        Args:
            setbacks: how often this answer went back before.

        Raises:
            ConfigError: nothing is left to be taken back, or the answer went back too often.
        """
        if not tokens or setbacks >= _MOST_SETBACKS:
            raise cannot_be_met(f"no token may follow, after {setbacks} setbacks")
        kept = max(len(tokens) - 1 - setbacks // _PATIENCE, 0)
        self.mark_dead(tokens[: kept + 1])
        return kept

    def _forbidden(self, tokens: Tokens, width: int) -> np.ndarray:
        left = self.most_tokens - len(tokens) - 1  # tokens that may follow the next one
        forbidden = np.ones(width, dtype=bool)
        if self._machine is None:
            forbidden[:] = left < 0
        elif left >= 0 and (state := self._state(tokens)) is not None:
            needs = self._machine.needs(state)[:width]
            forbidden[: len(needs)] = needs > _bound(int(needs.min(initial=FAR)), left)
        forbidden[self._ends] = not self.satisfied(tokens)
        for token in self._dead.get(tokens, ()):
            forbidden[token] = True
        return forbidden

    def _state(self, tokens: Tokens) -> State | None:
        """Where the tokens lead, None where they are not allowed, or nothing is asked of the text."""
        if self._machine is None:
            return None
        known = len(tokens)
        while known and tokens[:known] not in self._states:
            known -= 1
        state = self._states[tokens[:known]] if known else self._machine.start
        for at in range(known, len(tokens)):
            state = None if state is None else self._machine.step(state, tokens[at])
            self._states[tokens[: at + 1]] = state
        if tokens:
            self._states.move_to_end(tokens)
        while len(self._states) > _KEPT:
            self._states.popitem(last=False)
        return state


def _bound(nearest: int, left: int) -> int:
    """How far from its end an answer may be behind the next token.

    Distances are upper bounds, since tokens of several characters get there sooner: where even the nearest end looks
    too far, the shortest way is tried. The last token of all must be at an end.
    """
    return min(max(left, nearest), FAR - 1) if left > 0 else min(left, FAR - 1)


def make_constraint(
    specs: Sequence[Constraint],
    vocabulary: Vocabulary,
    *,
    end_ids: Sequence[int],
    max_new_tokens: int,
    forbidden: Iterable[int] = (),
) -> ConstraintProcessor:
    """The processor that holds answers to all of the constraints.

    What is computed from the constraints is kept with the vocabulary: the same ones cost nothing again.

    Args:
        end_ids: tokens that end an answer.
        max_new_tokens: most tokens of an answer, its end not counted.
        forbidden: ids that are never chosen.

    Raises:
        ConfigError: the constraints contradict one another, the vocabulary cannot write what they want, or
            `max_new_tokens` is too little.
        MissingExtraError: a constraint needs `flagai[writing]`.
    """
    tokens = [spec for spec in specs if isinstance(spec, Length) and spec.unit == "tokens"]
    texts = tuple(spec for spec in specs if spec not in tokens)
    least = max((spec.least for spec in tokens), default=0)
    most = min((spec.most for spec in tokens if spec.most is not None), default=None)
    if least > (max_new_tokens if most is None else min(most, max_new_tokens)):
        raise cannot_be_met(f"at least {least} tokens are asked for, {most or max_new_tokens} are allowed")
    machine = compile_machine(texts, vocabulary, frozenset(forbidden) | frozenset(end_ids)) if texts else None
    return ConstraintProcessor(machine, end_ids=end_ids, max_new_tokens=max_new_tokens, least=least, most=most)


def cannot_be_met(found: str) -> ConfigError:
    """The error for constraints that no answer meets with this vocabulary and these options."""
    return ConfigError(
        f"the constraints cannot be met: {found}",
        where="constraints",
        fix="raise max_new_tokens, ask for less, or loosen other options (no_repeat_ngram_size, suppress_tokens)",
    )
