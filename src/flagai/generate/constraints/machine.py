"""Constraints at work on the tokens of a vocabulary: what may come next. Knows no model and no torch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from flagai.generate.constraints.automata import DEAD, Automaton
from flagai.generate.constraints.product import FAR, Distances, join_letters
from flagai.generate.constraints.vocabulary import START, Context, Table, Vocabulary

_KEPT_BYTES: Final = 64 << 20
_NONE: Final = -2  # behind a token's last letter


class State(NamedTuple):
    """Where an answer is: what of its text its next token depends on, and the state of each automaton."""

    context: Context
    at: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Spelled:
    """A table of the vocabulary in letters, tokens of equal letters once only.

    Args:
        ids: int64 [n]: the usable tokens.
        kind: int64 [n]: which row of the others each of them is.
        letters: int32 [m, longest], `_NONE` behind a token's last letter and -1 for one that may not come.
        after: int64 [m], which of the contexts it leads to.
        begun: bool [contexts]: whether a character is begun there.
        endings: int64 [contexts, letters]: `Machine._endings` where one is.
    """

    ids: np.ndarray
    kind: np.ndarray
    letters: np.ndarray
    after: np.ndarray
    begun: np.ndarray
    endings: np.ndarray


class Machine:
    """The automata of several constraints, driven by tokens.

    Args:
        forbidden: ids that are never chosen, so that no way to an end leads over them.
    """

    def __init__(self, vocabulary: Vocabulary, automata: Sequence[Automaton], forbidden: Iterable[int] = ()) -> None:
        self._vocabulary, self._automata = vocabulary, tuple(automata)
        self._usable = np.array([piece is not None for piece in vocabulary.pieces], dtype=bool)
        self._usable[[i for i in forbidden if 0 <= i < len(vocabulary)]] = False
        self._letters = join_letters(automata, vocabulary.costs, self._usable_characters())
        self.distances = Distances(automata, self._letters)
        self.start = State(START, tuple(one.start for one in automata))
        self._spelled: dict[Context, _Spelled] = {}
        self._rest: dict[bytes, np.ndarray] = {}
        self._needs: OrderedDict[State, np.ndarray] = OrderedDict()

    def _usable_characters(self) -> np.ndarray:
        if self._vocabulary.has_bytes:
            return np.ones(len(self._vocabulary.alphabet), dtype=bool)
        found = np.zeros(len(self._vocabulary.alphabet), dtype=bool)
        table = self._vocabulary.table(Context("narrow" if self._vocabulary.spaced else "plain"))
        characters = table.characters[self._usable[table.ids]]
        found[characters[characters >= 0]] = True
        return found

    def distance(self, state: State) -> int:
        """About how many tokens at the least bring the answer to an end that all constraints accept."""
        if not state.context.pending:
            return int(self.distances.of([np.array([one]) for one in state.at])[0])
        letters = np.arange(len(self._letters.costs))
        moved = self._follow([np.full(len(letters), one) for one in state.at], letters)
        far = self.distances.of(moved) + self._endings(state.context.pending)
        return int(far.min(initial=FAR))

    def accepts(self, state: State) -> bool:
        """Whether the answer may end here."""
        pairs = zip(self._automata, state.at, strict=True)
        return not state.context.pending and all(bool(one.accepts[at]) for one, at in pairs)

    def step(self, state: State, token: int) -> State | None:
        """The state after a token; None where the constraints do not allow it."""
        found = self._vocabulary.add(state.context, token)
        if found is None or not self._usable[token]:
            return None
        letters = self._vocabulary.index(found[0])
        letters = np.where(letters >= 0, self._letters.of_character[letters], DEAD)
        at = [np.array(one) for one in state.at]
        for letter in letters.tolist():
            at = self._follow(at, np.array(letter))
        following = State(found[1], tuple(int(one) for one in at))
        return None if min(following.at) < 0 or self.distance(following) >= FAR else following

    def needs(self, state: State) -> np.ndarray:
        """int16 [vocabulary]: how many tokens must follow each token at the least; `FAR` for those not allowed."""
        if state in self._needs:
            self._needs.move_to_end(state)
        else:
            self._needs[state] = self._compute(state)
            if len(self._needs) * 2 * len(self._vocabulary) > _KEPT_BYTES:
                self._needs.popitem(last=False)
        return self._needs[state]

    def _compute(self, state: State) -> np.ndarray:
        spelled = self._spell(state.context)
        at = [np.full(len(spelled.letters), one) for one in state.at]
        for column in spelled.letters.T:
            here = np.flatnonzero(column > _NONE)
            for one, moved in zip(at, self._follow([one[here] for one in at], column[here]), strict=True):
                one[here] = moved
        found = np.full(len(spelled.letters), FAR, dtype=np.int64)
        begun = spelled.begun[spelled.after]
        for pending in (False, True):
            here = np.flatnonzero((begun == pending) & (np.minimum.reduce(at) >= 0))
            reached = [one[here] for one in at]
            if len(here):
                found[here] = self._finish(spelled, here, reached) if pending else self.distances.of(reached)
        needs = np.full(len(self._vocabulary), FAR, dtype=np.int16)
        needs[spelled.ids] = found[spelled.kind]
        return needs

    def _finish(self, spelled: _Spelled, rows: np.ndarray, at: Sequence[np.ndarray]) -> np.ndarray:
        """Distances where a character is begun: over any that it may become; few states, so each is looked at once."""
        states, which = np.unique(np.stack(at), axis=1, return_inverse=True)
        letters = np.arange(len(self._letters.costs))
        moved = self._follow([row[:, None] for row in states], letters[None])
        far = self.distances.of([one.reshape(-1) for one in moved]).reshape(-1, len(letters))
        return np.minimum(far[which.reshape(-1)] + spelled.endings[spelled.after[rows]], FAR).min(1, initial=FAR)

    def _follow(self, at: Sequence[np.ndarray], letters: np.ndarray) -> list[np.ndarray]:
        triples = zip(self._automata, at, self._letters.classes, strict=True)
        return [one.follow(states, classes[letters]) for one, states, classes in triples]

    def _endings(self, pending: bytes) -> np.ndarray:
        """int64 [letters]: bytes that are missing until the begun character is the letter; `FAR` where it never is."""
        if pending not in self._rest:
            characters = self._vocabulary.completions(pending)
            letters = self._letters.of_character[characters]
            missing = (self._vocabulary.encoded[characters] != 0).sum(1) - len(pending)
            found = self._rest[pending] = np.full(len(self._letters.costs), FAR, dtype=np.int64)
            np.minimum.at(found, letters[letters >= 0], missing[letters >= 0])
        return self._rest[pending]

    def _spell(self, context: Context) -> _Spelled:
        if context not in self._spelled:
            self._spelled[context] = self._make_spelled(self._vocabulary.table(context))
        return self._spelled[context]

    def _make_spelled(self, table: Table) -> _Spelled:
        usable = self._usable[table.ids]
        characters, after = table.characters[usable], table.after[usable]
        letters = np.where(characters >= 0, self._letters.of_character[characters], _NONE)
        kind, first = _group(letters, after)
        begun = np.array([bool(one.pending) for one in table.contexts], dtype=bool)
        nothing = np.zeros(len(self._letters.costs), dtype=np.int64)
        rest = [self._endings(one.pending) if one.pending else nothing for one in table.contexts]
        endings = np.stack(rest) if begun.any() else np.empty((len(rest), 0), dtype=np.int64)
        return _Spelled(table.ids[usable], kind, letters[first], after[first], begun, endings)


def _group(letters: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(For each row which kind it is, for each kind a row of it): equal letters and the same context after them."""
    kind, used = after.copy(), int(after.max(initial=-1)) + 1
    for column in letters.T:
        here = np.flatnonzero(column > _NONE)
        names, found = np.unique(kind[here] * (int(column.max(initial=0)) + 2) + column[here], return_inverse=True)
        kind[here] = used + found
        used += len(names)
    _, first, kind = np.unique(kind, return_index=True, return_inverse=True)
    return kind.reshape(-1), first
