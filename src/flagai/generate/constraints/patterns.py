"""Regular expressions and JSON schemas as automata, through outlines-core. Knows characters, no tokens and no model.

outlines-core makes an automaton over the tokens of a vocabulary; given one of the 256 bytes it makes one over bytes,
which joins with the other constraints under any tokenizer.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np

from flagai.errors import ConfigError, MissingExtraError
from flagai.generate.constraints.automata import DEAD, Automaton, framed
from flagai.generate.constraints.schemas import parts
from flagai.generate.constraints.spec import JsonSchema, Matches

_END: Final = 256  # the id of the end in the vocabulary of bytes
_MOST_CELLS: Final = 1 << 27


def matching(spec: Matches | JsonSchema, encoded: np.ndarray) -> Automaton:
    """Accepts what the pattern matches as a whole.

    Args:
        encoded: `Vocabulary.encoded`.

    Raises:
        ConfigError: the library cannot do the pattern or the schema.
        MissingExtraError: it is not installed.
    """
    name = "matches" if isinstance(spec, Matches) else "json_schema"
    index = _index(spec.pattern if isinstance(spec, Matches) else regex_of(spec), name)
    bytewise, accepts, start = _arrays(index)
    table, classes = _by_character(bytewise, encoded)
    return Automaton(name=name, table=framed(table), classes=classes, accepts=accepts, start=start)


def regex_of(spec: JsonSchema) -> str:
    """The regular expression of the JSON texts that a schema allows."""
    outlines = _outlines()
    for path, part in parts(spec.value):
        if isinstance(part.get("pattern"), str):
            _check_inner(part["pattern"], path)
    try:
        return outlines.json_schema.build_regex_from_schema(spec.schema)
    except (ValueError, TypeError) as error:
        raise _refused("json_schema", spec.schema, error) from error


def _check_inner(pattern: str, path: str) -> None:
    """Refuse a pattern of a JSON string that matches what JSON would have to escape: the text would be no JSON."""
    ways = _index(pattern, "json_schema").get_transitions()
    if any(0 < byte < 0x20 or byte in b'"\\' for found in ways.values() for byte in found if byte != _END):
        raise ConfigError(
            f"the pattern {pattern!r} at {path} matches quotation marks, backslashes or control characters",
            where="constraints.json_schema",
            expected=r'a pattern without them: [^"\\\x00-\x1f] in place of a point',
        )


def _outlines() -> Any:
    try:
        import outlines_core
    except ImportError as error:
        raise MissingExtraError.for_package("outlines-core", "writing") from error
    return outlines_core


def _index(pattern: str, name: str) -> Any:
    """The automaton of the pattern with a NUL behind it, over bytes.

    Without that outlines-core 0.2.14 loses ways that lead from one match over several bytes to the next, as in (ab)+.
    The state behind a match says so one byte late, and is taken for a match that ends there.
    """
    bare = pattern.removeprefix("^")
    bare = bare[:-1] if re.search(r"(?<!\\)(\\\\)*\$$", bare) else bare
    if "$" in re.sub(r"\\.|\[\^?\]?[^\]]*\]", "", bare):
        raise _refused(name, pattern, ValueError("$ stands inside it"))
    outlines = _outlines()
    vocabulary: dict[str | bytes, list[int]] = {bytes([byte]): [byte] for byte in range(256)}
    try:
        return outlines.Index(f"(?:{bare})\\x00", outlines.Vocabulary(_END, vocabulary))
    except (ValueError, TypeError) as error:
        raise _refused(name, pattern, error) from error


def _refused(name: str, found: str, error: Exception) -> ConfigError:
    reason = str(error).strip().splitlines()
    return ConfigError(
        f"{found!r} cannot be made an automaton: {reason[-1] if reason else error!r}",
        where=f"constraints.{name}",
        expected="an expression without look-around and back references, or a schema without recursion",
    )


def _arrays(index: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """([states + 1, 256] of the next states, which of them accept, the first one)."""
    ways: dict[int, dict[int, int]] = index.get_transitions()
    finals = set(index.get_final_states())
    first = index.get_initial_state()
    names = dict.fromkeys([first, *ways, *finals])
    names.update(dict.fromkeys(target for found in ways.values() for target in found.values()))
    numbers = {name: i for i, name in enumerate(names)}
    table = np.full((len(numbers) + 1, 256), DEAD, dtype=np.int32)
    accepts = np.zeros(len(numbers), dtype=bool)
    for state, found in ways.items():
        accepts[numbers[state]] = found.get(0) in finals
        for byte, target in found.items():
            if byte not in (0, _END):
                table[numbers[state], byte] = numbers[target]
    return table, accepts, numbers[first]


def _by_character(bytewise: np.ndarray, encoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([states, classes], class of each character): bytes that no state tells apart are taken for one."""
    columns, same = np.unique(bytewise, axis=1, return_inverse=True)
    lengths = (encoded != 0).sum(1, keepdims=True).clip(1)  # U+0000 is one byte long
    sequences = np.where(np.arange(4) < lengths, same.reshape(-1)[encoded], -1)
    kinds, classes = np.unique(sequences, axis=0, return_inverse=True)
    states = len(bytewise) - 1
    if states * len(kinds) > _MOST_CELLS:
        raise ConfigError(
            f"the pattern has {states} states",
            where="constraints",
            expected="a smaller pattern: repeat less, or bound repetitions lower",
        )
    table = np.tile(np.arange(states, dtype=np.int32)[:, None], (1, len(kinds)))
    for place in range(4):
        column = kinds[:, place]
        table = np.where(column >= 0, columns[table, np.maximum(column, 0)], table)
    return table, classes.reshape(-1).astype(np.int32)
