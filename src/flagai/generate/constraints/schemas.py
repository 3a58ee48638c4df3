"""Which JSON schemas answers can be held to. Knows the keywords that the automata keep, and no tokens.

A keyword that would be passed over in silence is refused: an answer either meets the schema or there is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any, Final

from flagai.errors import ConfigError

_WORDS: Final = frozenset(
    {"title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated", "readOnly", "writeOnly"}
)
_DEFINITIONS: Final = frozenset({"$defs", "definitions"})
_FORMATS: Final = frozenset({"uuid"})  # of the others what is written is not what they mean
_BESIDE: Final[Mapping[str, frozenset[str]]] = {
    "enum": frozenset({"type"}),
    "const": frozenset({"type"}),
    "$ref": frozenset(),
    "anyOf": frozenset(),
    "pattern": frozenset({"type"}),
    "format": frozenset({"type"}),
    "minLength": frozenset({"type", "maxLength"}),
    "maxLength": frozenset({"type", "minLength"}),
    "items": frozenset({"type", "minItems", "maxItems", "prefixItems"}),
    "prefixItems": frozenset({"type", "items"}),
    "minItems": frozenset({"type", "items", "maxItems"}),
    "maxItems": frozenset({"type", "items", "minItems"}),
    "properties": frozenset({"type", "required", "additionalProperties"}),
    "required": frozenset({"type", "properties", "additionalProperties"}),
    "additionalProperties": frozenset({"type", "properties", "required"}),
}
"""keywords that are kept, and those that each may stand beside: with others one of the two would be passed over"""
_MAPPINGS: Final = ("properties", "$defs", "definitions")
_LISTS: Final = ("anyOf", "prefixItems")
_SINGLE: Final = ("items", "additionalProperties")


def check_schema(schema: Mapping[str, Any]) -> None:
    """Refuse what answers could not be held to.

    Raises:
        ConfigError: a keyword, a format or a combination that the automata do not keep.
    """
    for path, part in parts(schema):
        keys = part.keys() - _WORDS - _DEFINITIONS
        for key in sorted(keys):
            if key == "type":
                continue
            if key not in _BESIDE:
                raise _refused(path, f"the keyword {key!r}", _HINTS.get(key, "a schema without it"))
            if beside := sorted(keys - _BESIDE[key] - {key}):
                raise _refused(path, f"{key!r} beside {beside[0]!r}", "one of them")
        _check_type(path, part, keys)
        if "format" in part and part["format"] not in _FORMATS:
            raise _refused(path, f"the format {part['format']!r}", "a pattern")
        if lost := [one for one in _list(part.get("required")) if one not in _mapping(part.get("properties"))]:
            raise _refused(path, f"{lost[0]!r}, which is required and no property", "a schema of it in properties")


def _check_type(path: str, part: Mapping[str, Any], keys: Set[str]) -> None:
    kind = part.get("type")
    if not keys:
        raise _refused(path, "a schema of anything", "a type")
    if isinstance(kind, list) and len(keys) > 1:
        raise _refused(path, "several types with bounds", "anyOf")
    if kind == "array" and not keys & {"items", "prefixItems", "enum", "const"}:
        raise _refused(path, "an array of anything", "items")
    if kind == "object" and not keys & {"properties", "additionalProperties", "enum", "const"}:
        raise _refused(path, "an object of anything", "properties")
    if not isinstance(kind, str):
        return
    for value in [part["const"]] if "const" in part else _list(part.get("enum")):
        if not isinstance(value, _TYPES.get(kind, object)) or (isinstance(value, bool) and kind != "boolean"):
            raise _refused(path, f"{value!r}, which is no {kind}", "values of the type, or no type")


_TYPES: Final[Mapping[str, Any]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
}


def parts(schema: Any, path: str = "#") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schema and all schemas in it, with their places."""
    if not isinstance(schema, Mapping):
        return
    yield path, schema
    for key in _MAPPINGS:
        for name, part in _mapping(schema.get(key)).items():
            yield from parts(part, f"{path}/{key}/{name}")
    for key in _LISTS:
        for i, part in enumerate(_list(schema.get(key))):
            yield from parts(part, f"{path}/{key}/{i}")
    for key in _SINGLE:
        yield from parts(schema.get(key), f"{path}/{key}")


_HINTS: Final = {
    "oneOf": "anyOf, where no value fits two of them",
    "allOf": "one schema that says the same",
    "minimum": "a pattern on a string, or an enum",
    "maximum": "a pattern on a string, or an enum",
}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _refused(path: str, found: str, expected: str) -> ConfigError:
    return ConfigError(
        f"answers cannot be held to {found} at {path}", where="constraints.json_schema", expected=expected
    )
