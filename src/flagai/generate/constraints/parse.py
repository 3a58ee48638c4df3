"""Constraints from plain data (run.yaml, task.json, the command line) and back. Knows no tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from flagai.errors import ConfigError, unknown_name
from flagai.generate.constraints.spec import (
    Constraint,
    JsonSchema,
    Length,
    Matches,
    MustContain,
    MustNotContain,
    OneOf,
    Verse,
    check_together,
)

NAMES: Final[Mapping[str, type[Any]]] = {
    "must_contain": MustContain,
    "must_not_contain": MustNotContain,
    "one_of": OneOf,
    "matches": Matches,
    "json_schema": JsonSchema,
    "length": Length,
    "verse": Verse,
}
"""names of the constraints in plain data"""


def parse(value: Any) -> tuple[Constraint, ...]:
    """Constraints from whatever a user writes them as.

    Args:
        value: None; a constraint; a mapping from names (`NAMES`) to values; YAML text of one; or a list of these.
            `{length: 20}` is at most 20 characters, `{length: [5, 20]}` from 5 to 20, `{verse: 五言绝句}` a form; where
            a constraint has several settings a mapping gives them by name: `{length: {most: 30, unit: words}}`.

    Raises:
        UnknownNameError: no such constraint or setting.
        ConfigError: a value that cannot be meant, or constraints that contradict one another.
    """
    specs = tuple(_specs(value))
    check_together(specs)
    return specs


def to_plain(specs: Sequence[Constraint]) -> list[dict[str, Any]]:
    """Constraints as a list of mappings that `parse` reads, of JSON's types only."""
    names = {kind: name for name, kind in NAMES.items()}
    plain = []
    for spec in specs:
        values = {one.name: _listed(getattr(spec, one.name)) for one in fields(spec) if one.init}
        if isinstance(spec, JsonSchema):
            values = {"schema": spec.value}
        plain.append({names[type(spec)]: values if len(values) > 1 else next(iter(values.values()))})
    return plain


def _specs(value: Any) -> list[Constraint]:
    if value is None:
        return []
    if isinstance(value, tuple(NAMES.values())):
        return [value]
    if isinstance(value, str):
        return _specs(_from_text(value))
    if isinstance(value, Mapping):
        return [_one(str(name), given) for name, given in value.items()]
    if isinstance(value, Sequence):
        return [spec for one in value for spec in _specs(one)]
    raise ConfigError(f"a constraint is {value!r}", where="constraints", expected=_EXPECTED)


def _from_text(text: str) -> Any:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the constraint {text!r} is no YAML: {error}", where="constraints") from error
    if isinstance(value, str):
        raise ConfigError(f"the constraint {text!r} has no name", where="constraints", expected=_EXPECTED)
    return value


def _one(name: str, value: Any) -> Constraint:
    kind = NAMES.get(name)
    if kind is None:
        raise unknown_name("constraint", name, NAMES, where="constraints")
    where = f"constraints.{name}"
    if kind is JsonSchema:
        return JsonSchema(value)
    if isinstance(value, Mapping):
        known = [one.name for one in fields(kind) if one.init]
        for key in value:
            if key not in known:
                raise unknown_name("setting", str(key), known, where=where)
        missing = [one for one in _NEEDED.get(kind, ()) if one not in value]
        if missing:
            raise ConfigError(f"{missing[0]} is missing", where=where, expected=f"settings of {', '.join(known)}")
        return kind(**{str(key): _tupled(one) for key, one in value.items()})
    make: Any = _SHORT.get(kind, kind)
    return make(_tupled(value))


def _length(value: Any) -> Length:
    if isinstance(value, tuple) and len(value) == 2:
        return Length(least=value[0], most=value[1])
    if isinstance(value, tuple):
        raise ConfigError(f"length is {list(value)!r}", where="constraints.length", expected="[least, most]")
    return Length(most=value)


_EXPECTED: Final = "name: value, as in `must_contain: [月, 山]`; the names are " + ", ".join(NAMES)
_SHORT: Final[Mapping[type[Any], Callable[[Any], Any]]] = {Length: _length, Verse: lambda form: Verse(form=form)}
_NEEDED: Final[Mapping[type[Any], tuple[str, ...]]] = {
    MustContain: ("words",),
    MustNotContain: ("words",),
    OneOf: ("strings",),
    Matches: ("pattern",),
    Verse: ("form",),
}


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
