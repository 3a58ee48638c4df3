"""A choice among given strings as an automaton. Knows characters, no tokens and no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flagai.generate.constraints.automata import Trie, framed, sort_characters


def choosing(strings: Sequence[str], alphabet: np.ndarray) -> Trie:
    """Accepts each of the strings and nothing else; of many thousands too."""
    numbers = {char: i for i, char in enumerate(dict.fromkeys("".join(strings)))}
    children: list[dict[int, int]] = [{}]
    ends = []
    for string in strings:
        node = 0
        for char in string:
            following = children[node].get(numbers[char])
            if following is None:
                following = children[node][numbers[char]] = len(children)
                children.append({})
            node = following
        ends.append(node)
    width = len(numbers) + 1
    ways = sorted((node * width + one, child) for node, found in enumerate(children) for one, child in found.items())
    accepts = np.zeros(len(children), dtype=bool)
    accepts[ends] = True
    return Trie(
        name="one_of",
        table=framed(np.empty((0, 0))),
        classes=sort_characters(alphabet, numbers, -1),
        accepts=accepts,
        keys=np.array([key for key, _ in ways], dtype=np.int64),
        targets=np.array([child for _, child in ways], dtype=np.int32),
        width=width,
    )
