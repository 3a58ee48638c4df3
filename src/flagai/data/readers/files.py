"""A path becomes decoded text, or an error that says why not. Knows nothing of what stands in the text."""

from __future__ import annotations

import difflib
import gzip
import zlib
from pathlib import Path
from typing import Final

from flagai.errors import ConfigError, DataError, MissingFileError

# What people pass by mistake, by the first bytes.
_MAGIC: Final = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook (.xlsx)"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word document"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"BZh", "bzip2-compressed"),
    (b"\xfd7zXZ", "xz-compressed"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"SQLite format 3", "an SQLite database"),
)
_FIXES: Final = {
    b"PK\x03\x04": "export the sheet as 'CSV UTF-8', or unpack the archive",
    b"\xd0\xcf\x11\xe0": "export the sheet as 'CSV UTF-8'",
    b"\x1f\x8b": "let the file name end in .gz (for example train.jsonl.gz)",
    b"PAR1": "let the file name end in .parquet",
}
_UTF16: Final = "it may be binary, or UTF-16 without a byte order mark: then set data.encoding: utf-16-le"
_NOTHING: Final = "check that writing or copying it was finished, or name another file"
_TEXT_EXPECTED: Final = "text in UTF-8, or in UTF-16 with a byte order mark"


def suffix_of(path: Path) -> tuple[str, bool]:
    """The suffix that names the format, lower case, and whether `.gz` follows it."""
    zipped = path.suffix.lower() == ".gz"
    return (Path(path.stem).suffix if zipped else path.suffix).lower(), zipped


def require_file(path: Path) -> None:
    """Raise MissingFileError, naming the nearest name in the same folder, unless the path exists."""
    if path.exists():
        return
    there = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there, n=1, cutoff=0.6)
    if near:
        fix = f"did you mean {path.parent / near[0]}?"
    elif path.parent.is_dir():
        fix = f"check the path; relative paths start at {Path.cwd()}"
    else:
        fix = f"check the path: the folder {path.parent} does not exist either"
    raise MissingFileError("no such file", expected="a data file", fix=fix, where=str(path))


def read_text(path: Path, encoding: str | None = None) -> str:
    """Read and decode one text file, `.gz` unpacked, a byte order mark removed, line ends as they are.

    Args:
        path: the file.
        encoding: a name Python knows; None and utf-8 accept UTF-8 (with or without BOM) and UTF-16 with BOM.

    Raises:
        MissingFileError: there is no such file.
        DataError: it is empty, binary, damaged or not in that encoding.
        ConfigError: there is no such encoding.
    """
    require_file(path)
    data = _bytes(path)
    if not data.strip():
        raise DataError("the file is empty", expected="at least one row", fix=_NOTHING, where=str(path))
    text = _decode(data, path, encoding).removeprefix("\ufeff")
    if not text.strip():
        raise DataError(
            "the file holds nothing but whitespace", expected="at least one row", fix=_NOTHING, where=str(path)
        )
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        fix = _UTF16 if text.count("\0") > len(text) // 8 else ""
        raise _binary(path, "a NUL character", fix=fix, line=line)
    return text


def _bytes(path: Path) -> bytes:
    data = path.read_bytes()
    if not suffix_of(path)[1] or not data:
        return data
    try:
        return gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"the file does not unpack: {error}",
            expected="a complete gzip file, as its name ends in .gz",
            fix="copy or download it again, or drop .gz from its name if it is not compressed",
            where=str(path),
        ) from error


def _decode(data: bytes, path: Path, encoding: str | None) -> str:
    for magic, what in _MAGIC:
        if data.startswith(magic):
            raise _binary(path, f"{what}", fix=_FIXES.get(magic, ""))
    codec = encoding or "utf-8"
    if codec.lower().replace("_", "-") in ("utf-8", "utf8") and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        codec = "utf-16"
    try:
        return data.decode(codec)
    except LookupError as error:
        raise ConfigError(
            f"unknown encoding {encoding!r}",
            expected="a name such as utf-8, utf-16, gb18030, big5 or cp1252",
            fix="correct data.encoding",
        ) from error
    except UnicodeDecodeError as error:
        raise _undecodable(data, path, codec, error) from error


def _binary(path: Path, what: str, *, fix: str = "", line: int = 0) -> DataError:
    return DataError(
        f"this is not a text file: found {what}",
        expected=_TEXT_EXPECTED,
        fix=fix
        or "give a jsonl, json, csv, tsv, parquet or CoNLL file; name the encoding in data.encoding if it is text",
        where=f"{path}:{line}" if line else str(path),
    )


def _undecodable(data: bytes, path: Path, codec: str, error: UnicodeDecodeError) -> DataError:
    start = error.start
    line = data.count(b"\n", 0, start) + 1
    return DataError(
        f"byte {start} (hex {data[start : start + 4].hex(' ')}) is not {codec.upper()}",
        expected=_TEXT_EXPECTED if codec in ("utf-8", "utf-16") else f"text in {codec}",
        fix=_encoding_advice(data, path, codec),
        where=f"{path}:{line}",
    )


def _encoding_advice(data: bytes, path: Path, codec: str) -> str:
    if codec != "gb18030" and looks_like_gb18030(data):
        return (
            "it reads as GB18030 (GBK): set data.encoding: gb18030, or convert it with "
            f"`iconv -f GB18030 -t UTF-8 {path.name} > utf8-{path.name}`"
        )
    if b"\0" in data[:4096]:
        return _UTF16
    return "save the file as UTF-8, or name its encoding in data.encoding (for example cp1252 or big5)"


def looks_like_gb18030(data: bytes) -> bool:
    """GB18030 decodes much that it never wrote, so most of what is not ASCII must be in its common core, GB2312."""
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return False
    foreign = [char for char in text[:100_000] if ord(char) > 127]
    return sum(_in_gb2312(char) for char in foreign) >= 0.8 * len(foreign) > 0


def _in_gb2312(char: str) -> bool:
    try:
        char.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True
