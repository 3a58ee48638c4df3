"""Constraints as finite automata over characters, in tables. Knows characters, no tokens and no model.

Every automaton has classes of characters that it does not tell apart; a state is a number, -1 is the dead end.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np

from flagai.generate.constraints.spec import Length
from flagai.text import is_cjk

DEAD: Final = -1


@dataclass(frozen=True, eq=False, kw_only=True)
class Automaton:
    """States and what characters do to them.

    Args:
        name: for messages.
        table: int32 [states + 1, classes + 1]: the next state; the last row and column are `DEAD`, so that -1 leads to
            -1.
        classes: int32 [alphabet]: the class of each character, `DEAD` for those that may never come.
        accepts: bool [states]: whether the text may end there.
        start: the first state.
    """

    name: str
    table: np.ndarray
    classes: np.ndarray
    accepts: np.ndarray
    start: int = 0

    @property
    def num_states(self) -> int:
        return len(self.accepts)

    def follow(self, states: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """The states after one character each; broadcasts."""
        return self.table[states, classes]

    def read(self, characters: np.ndarray) -> Automaton:
        """The same automaton, begun behind these characters (indices into the alphabet, none missing)."""
        state = self.start
        for one in characters.tolist():
            state = int(self.follow(np.array(state), self.classes[one]))
        return replace(self, start=state)


@dataclass(frozen=True, eq=False, kw_only=True)
class Trie(Automaton):
    """An automaton with few ways on from each state among very many classes.

    Args:
        keys: int64, ascending: state · (classes + 1) + class of each way on.
        targets: int32: where it leads.
        width: classes + 1.
    """

    keys: np.ndarray
    targets: np.ndarray
    width: int

    def follow(self, states: np.ndarray, classes: np.ndarray) -> np.ndarray:
        wanted = states.astype(np.int64) * self.width + classes
        places = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        found = (self.keys[places] == wanted) & (states >= 0) & (classes >= 0)
        return np.where(found, self.targets[places], DEAD)


def build(
    name: str,
    start: Hashable,
    steps: Callable[[Any], Sequence[Hashable | None]],
    accepts: Callable[[Any], bool],
    classes: np.ndarray,
) -> Automaton:
    """The automaton of all states that can be reached.

    Args:
        steps: a state → the next state by each class, or the only one there is by any; None is the dead end.
    """
    numbers: dict[Hashable, int] = {start: 0}
    rows: list[np.ndarray] = []
    states = [start]
    for state in states:
        followers = steps(state)
        for following in dict.fromkeys(followers):
            if following is not None and following not in numbers:
                numbers[following] = len(states)
                states.append(following)
        row = [DEAD if following is None else numbers[following] for following in followers]
        rows.append(np.array(row, dtype=np.int32))
    accepting = np.array([accepts(state) for state in states], dtype=bool)
    width = max(map(len, rows))
    table = np.stack([np.broadcast_to(row, width) for row in rows])
    return Automaton(name=name, table=framed(table), classes=classes.astype(np.int32), accepts=accepting)


def framed(table: np.ndarray) -> np.ndarray:
    """The table with a dead row and a dead column behind it."""
    return np.pad(table.astype(np.int32), ((0, 1), (0, 1)), constant_values=DEAD)


def sort_characters(alphabet: np.ndarray, classes: Mapping[str, int], other: int) -> np.ndarray:
    """The class of each code point: those named, and one for all others."""
    found = np.full(len(alphabet), other, dtype=np.int32)
    for char, number in classes.items():
        place = int(np.searchsorted(alphabet, ord(char)))
        if place < len(alphabet) and alphabet[place] == ord(char):
            found[place] = number
    return found


class _Search(NamedTuple):
    """How far the search for a whole word has come.

    Args:
        found: for good.
        matched: at its last letter just now, so that it is found where the text ends or no letter follows.
        free: whether the word may begin here.
        begun: how many letters of it have been read, for each way in which it may have begun.
    """

    found: bool = False
    matched: bool = False
    free: bool = True
    begun: frozenset[int] = frozenset()


def containing(word: str, alphabet: np.ndarray) -> Automaton:
    """Accepts texts in which the word stands by itself, see `MustContain`."""
    numbers = {char: i for i, char in enumerate(dict.fromkeys(word))}
    letters = np.array([joins(chr(code)) for code in alphabet.tolist()], dtype=np.int32)
    classes = sort_characters(alphabet, numbers, DEAD)
    # Behind the word's own characters: other letters, and all else.
    classes = np.where(classes == DEAD, len(numbers) + 1 - letters, classes)
    signs = [*numbers, "a", " "]

    def step(state: _Search, kind: int) -> _Search:
        letter = joins(signs[kind])
        if state.found or (state.matched and not letter):
            return _Search(found=True)
        begun = state.begun | ({0} if state.free else set())
        begun = {length + 1 for length in begun if kind < len(numbers) and word[length] == signs[kind]}
        if len(word) in begun and not joins(word[-1]):
            return _Search(found=True)
        free = not (letter and joins(word[0]))
        return _Search(matched=len(word) in begun, free=free, begun=frozenset(begun - {len(word)}))

    def steps(state: _Search) -> list[_Search]:
        return [step(state, kind) for kind in range(len(signs))]

    name = f"must_contain {word!r}"
    return build(name, _Search(), steps, lambda state: state.found or state.matched, classes)


def joins(char: str) -> bool:
    """Whether the character makes one word with such a character beside it."""
    return char.isalnum() and not is_cjk(char)


def searching(name: str, words: Sequence[str], alphabet: np.ndarray, *, wanted: bool) -> Automaton:
    """Accepts texts with one of the words in them (`wanted`), or with none (Aho & Corasick 1975)."""
    numbers = {char: i for i, char in enumerate(dict.fromkeys("".join(words)))}
    table, found = _search_table([[numbers[char] for char in word] for word in words], len(numbers) + 1)
    if wanted:
        table[found] = np.flatnonzero(found)[:, None]  # once found, found for good
    else:
        table[found[table]] = DEAD
    classes = sort_characters(alphabet, numbers, len(numbers))
    return Automaton(name=name, table=framed(table), classes=classes, accepts=found if wanted else ~found)


def _search_table(words: Sequence[Sequence[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """([states, width] of the next states; whether a word ends in the state)."""
    children: list[dict[int, int]] = [{}]
    ends = set()
    for word in words:
        node = 0
        for one in word:
            if one not in children[node]:
                children[node][one] = len(children)
                children.append({})
            node = children[node][one]
        ends.add(node)
    table = np.zeros((len(children), width), dtype=np.int32)
    found = np.zeros(len(children), dtype=bool)
    found[list(ends)] = True
    queue, failed = [0], [0] * len(children)
    for node in queue:  # by depth: where a node's search goes back to is ready before the node
        table[node] = table[failed[node]] if node else 0
        found[node] |= found[failed[node]]
        for one, child in children[node].items():
            failed[child] = int(table[node, one]) if node else 0
            table[node, one] = child
            queue.append(child)
    return table, found


def counting(spec: Length, alphabet: np.ndarray) -> Automaton:
    """Accepts texts with as many characters or words as asked for."""
    characters = [chr(code) for code in alphabet.tolist()]
    if spec.unit == "characters":
        classes = np.array([char.isspace() for char in characters], dtype=np.int32)
        return _counted(spec, _next_length(spec), classes)
    classes = np.array([_word_class(char) for char in characters], dtype=np.int32)
    return _counted(spec, _next_words(spec), classes)


_Count = tuple[int, bool]


def _counted(spec: Length, step: Callable[[_Count, int], _Count | None], classes: np.ndarray) -> Automaton:
    def steps(state: _Count) -> list[_Count | None]:
        return [step(state, one) for one in range(int(classes.max(initial=0)) + 1)]

    def accepts(state: _Count) -> bool:
        # An answer does not end in white space that would be counted and then stripped.
        return state[0] >= spec.least and not (state[1] and spec.unit == "characters")

    return build("length", (0, False), steps, accepts, classes)


def _next_length(spec: Length) -> Callable[[_Count, int], _Count | None]:
    """State: (characters, whether the last one is white space)."""

    def step(state: _Count, space: int) -> _Count | None:
        if state[0] == 0 and space:
            return state
        return _within(spec, state[0] + 1, bool(space))

    return step


def _next_words(spec: Length) -> Callable[[_Count, int], _Count | None]:
    """State: (words, whether inside one that is counted already)."""

    def step(state: _Count, kind: int) -> _Count | None:
        count, inside = state
        if kind == _SPACE:
            return count, False
        if kind == _HAN:
            return _within(spec, count + 1, False)
        if kind == _MARK or inside:
            return state
        return _within(spec, count + 1, True)

    return step


def _within(spec: Length, count: int, flag: bool) -> _Count | None:
    if spec.most is None:
        return min(count, spec.least), flag
    return (count, flag) if count <= spec.most else None


_SPACE, _HAN, _LETTER, _MARK = range(4)


def _word_class(char: str) -> int:
    if char.isspace():
        return _SPACE
    if is_cjk(char):
        return _HAN
    return _LETTER if char.isalnum() else _MARK
