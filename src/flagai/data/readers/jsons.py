"""JSON and JSON lines become rows, each with the line it starts on. Knows no column names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from flagai.errors import DataError

Row = tuple[int, dict[str, Any]]

_DECODER: Final = json.JSONDecoder()
_EXPECTED: Final = 'one object a line, a list of objects, or {"data": [objects]}'
_SNIPPET: Final = 60


def json_rows(text: str, file: str, *, lines: bool) -> list[Row]:
    """Rows of a JSON document or of JSON lines, whichever the content is.

    Args:
        text: the whole file.
        file: its name, for messages.
        lines: whether the name promises one object a line (decides only how a broken file is reported).
    """
    start = _skip(text, 0)
    if text[start] == "[":
        return _array(text, start, file)
    if text[start] != "{":
        raise _broken(text, start, file, "the file does not begin with { or [")
    try:
        first, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        first_line = text[start:].split("\n", 1)[0].rstrip()
        if lines or first_line.endswith("}"):
            return list(_lines(text, file))
        raise _broken(text, error.pos, file, error.msg) from error
    except RecursionError as error:
        raise _broken(text, start, file, "nested too deeply") from error
    if _skip(text, end) < len(text) or not _is_container(first):
        return list(_lines(text, file)) if "\n" not in text[start:end] else _single(text, start, end, first, file)
    return _array(text, _find_data(text, start), file)


def _is_container(value: dict[str, Any]) -> bool:
    return isinstance(value.get("data"), list) and "text" not in value


def _single(text: str, start: int, end: int, value: dict[str, Any], file: str) -> list[Row]:
    """A document that is one object over several lines: a record only if nothing follows and it holds plain values."""
    line = _line_of(text, start)
    if _skip(text, end) < len(text):
        raise DataError(
            "an object goes over several lines and another one follows",
            expected=_EXPECTED,
            fix="write one object a line, or put them into a list: [ {…}, {…} ]",
            where=f"{file}:{line}",
        )
    return [_checked(line, value, file)]


def _lines(text: str, file: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise _bad_json(file, number, error.colno, error.msg, line) from error
        except RecursionError as error:
            raise _bad_json(file, number, 1, "nested too deeply", line) from error
        yield _checked(number, value, file)


def _array(text: str, start: int, file: str) -> list[Row]:
    """Rows of the list that opens at `start`, decoded one by one so that each knows its line."""
    rows: list[Row] = []
    at, line, counted = _skip(text, start + 1), _line_of(text, start), start
    while at < len(text) and text[at] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise _broken(text, error.pos, file, error.msg) from error
        except RecursionError as error:
            raise _broken(text, at, file, "nested too deeply") from error
        rows.append(_checked(line, value, file))
        at = _skip(text, at)
        if at < len(text) and text[at] == ",":
            at = _skip(text, at + 1)
            if at < len(text) and text[at] == "]":
                raise _broken(text, at, file, "a comma before the end of the list")
        elif at < len(text) and text[at] != "]":
            raise _broken(text, at, file, "a comma or ] is missing")
    if at >= len(text):
        raise _broken(text, len(text), file, "the list is not closed: the file may be cut off")
    if text[start] == "[" and start == _skip(text, 0) and _skip(text, at + 1) < len(text):
        raise _broken(text, _skip(text, at + 1), file, "something follows the end of the list")
    return rows


def _find_data(text: str, start: int) -> int:
    """Where the list of the key "data" of the (valid) object at `start` opens."""
    at = _skip(text, start + 1)
    while True:
        key, at = _DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)
        if key == "data":
            return at
        _, at = _DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _line_of(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _checked(line: int, value: Any, file: str) -> Row:
    if isinstance(value, dict):
        lists = [
            name
            for name, item in value.items()
            if isinstance(item, list) and item and isinstance(item[0], (dict, list))
        ]
        if len(lists) > 1 and len(lists) == len(value):
            raise DataError(
                f"one object with the lists {', '.join(map(repr, lists[:8]))}: several tables in one file",
                expected=_EXPECTED,
                fix="write each list to a file of its own, for example train.json and dev.json",
                where=f"{file}:{line}",
            )
        return line, value
    raise DataError(
        f"a row is {describe(value)}",
        expected='an object such as {"text": "…", "label": "…"}',
        fix="name the fields of each row",
        where=f"{file}:{line}",
    )


def describe(value: Any) -> str:
    """A value in the words of JSON, cut to a line: "a number (3.5)"."""
    kinds = (
        (bool, "a truth value"),
        (str, "a string"),
        (int | float, "a number"),
        (list, "a list"),
        (dict, "an object"),
    )
    kind = next(
        (name for of, name in kinds if isinstance(value, of)), "null" if value is None else type(value).__name__
    )
    if value is None:
        return kind
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return f"{kind} ({shown if len(shown) <= _SNIPPET else shown[: _SNIPPET - 1] + '…'})"


def _broken(text: str, at: int, file: str, message: str) -> DataError:
    begin = text.rfind("\n", 0, at) + 1
    return _bad_json(file, _line_of(text, at), at - begin + 1, message, text[begin:].split("\n", 1)[0])


def _bad_json(file: str, line: int, column: int, message: str, content: str) -> DataError:
    begin = max(0, column - 1 - _SNIPPET // 2)
    return DataError(
        f"not valid JSON at column {column}: {message}; near {content[begin : begin + _SNIPPET]!r}",
        expected=_EXPECTED,
        fix="correct that line (strings in double quotes, no comma after the last item, a line break as \\n)",
        where=f"{file}:{line}",
    )
