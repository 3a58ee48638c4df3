"""Standard input as lines of text, or an error that names the line. Knows nothing of what stands in them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from flagai.data.readers.files import looks_like_gb18030
from flagai.errors import ConfigError, DataError


def standard_input(encoding: str | None) -> Iterator[str]:
    """The lines as they come in, each with its end; a byte order mark is not part of the first.

    Raises:
        ConfigError: there is no such encoding.
        DataError: a line is not in that encoding.
    """
    codec = encoding or "utf-8"
    for number, line in enumerate(_lines(codec), start=1):
        try:
            text = line.decode(codec)
        except UnicodeDecodeError as error:
            raise DataError(
                f"byte {error.start} (hex {line[error.start : error.start + 4].hex(' ')}) is not {codec.upper()}",
                where=f"standard input:{number}",
                expected=f"text in {codec.upper()}",
                fix=_advice(line, codec),
            ) from error
        yield text.removeprefix("\ufeff") if number == 1 else text


def _lines(codec: str) -> Iterable[bytes]:
    try:
        one_byte = "\n".encode(codec) == b"\n"
    except LookupError as error:
        raise ConfigError(
            f"unknown encoding {codec!r}",
            where="--encoding",
            expected="a name such as utf-8, utf-16, gb18030, big5 or cp1252",
        ) from error
    if one_byte:
        return sys.stdin.buffer
    # In UTF-16 and its like the byte of a line end is part of other characters: only the whole can be cut into lines.
    return _cut(sys.stdin.buffer.read(), codec)


def _cut(data: bytes, codec: str) -> list[bytes]:
    try:
        lines = data.decode(codec).splitlines(keepends=True)
    except UnicodeDecodeError:
        return [data]
    return [line.encode(codec) for line in lines]


def _advice(line: bytes, codec: str) -> str:
    if codec.lower() != "gb18030" and looks_like_gb18030(line):
        return "it reads as GB18030 (GBK): add --encoding gb18030, or pipe it through `iconv -f GB18030 -t UTF-8`"
    return "name its encoding with --encoding (for example gb18030, cp1252 or big5)"
