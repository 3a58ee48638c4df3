"""YAML and `a.b=c` text to plain mappings and back, with the line of every key.

It knows nothing of which keys exist or what they mean.

Scalars follow YAML 1.2: `1e-5` is a number, `no`, `on` and `12:30` are texts, dates stay texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import yaml

from flagai.errors import ConfigError

_MAX_KEY_DEPTH: Final = 6  # where aliases make a document circular, the walk over its keys must still end
_SCALARS: Final = (
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("tag:yaml.org,2002:int", r"^(?:[-+]?[0-9]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
    ("tag:yaml.org,2002:merge", r"^<<$", ["<"]),
)


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2; keys are texts, and a key given twice is an error."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        _check_keys(node)
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or our reader would take for something other than text."""

    yaml_implicit_resolvers: dict[str, Any] = {  # noqa: RUF012 - PyYAML's own class attribute
        first: list(rules) for first, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _construct_int(loader: yaml.SafeLoader, node: Any) -> int:
    # PyYAML's own reads 010 as octal, as YAML 1.1 did; 1.2 says ten.
    text = loader.construct_scalar(node)
    return int(text, 16) if text.startswith("0x") else int(text)


for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(_pattern), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Dumper.add_representer(tuple, lambda dumper, data: dumper.represent_list(list(data)))


def _check_keys(node: Any) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key is a list or a mapping", problem_mark=key.start_mark)
        if key.value in seen:
            raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands here twice", problem_mark=key.start_mark)
        seen.add(key.value)


@dataclass(frozen=True, kw_only=True)
class Document:
    """A mapping as written, and on which line of which file each dotted key stands."""

    values: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)
    file: str = ""
    overridden: frozenset[str] = frozenset()

    def where(self, key: str) -> str:
        """`file:line: key`, as far as known; a key that is absent stands where its section does."""
        if any(key == given or key.startswith(f"{given}.") for given in self.overridden):
            return key
        section = key
        while section and section not in self.lines:
            section = section.rpartition(".")[0]
        place = f"{self.file}:{self.lines[section]}" if section else self.file
        return f"{place}: {key}" if place and key else place or key


def parse_yaml(text: str, file: str = "") -> Document:
    """The mapping that a YAML text holds.

    Raises:
        ConfigError: with line and column, for what is no YAML, no mapping, or holds a key twice.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        values = loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as error:
        raise _yaml_error(error, file) from None
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise ConfigError(
            f"the file holds {_kind(values)}, not keys and values",
            expected="lines such as `task: classification`",
            fix="put a space after each colon; `flagai init FILE` writes a run.yaml to start from",
            where=file,
        )
    return Document(values=values, lines=_key_lines(node), file=file)


def _yaml_error(error: yaml.YAMLError, file: str) -> ConfigError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return ConfigError(
        f"{problem} ({context})" if context else str(problem),
        expected="valid YAML: `key: value`, indented with spaces, each key once",
        fix=f"correct {place}" if place else "correct the file",
        where=":".join(part for part in (file, f"{mark.line + 1}:{mark.column + 1}" if mark else "") if part),
    )


def _kind(value: Any) -> str:
    return "nothing" if value is None else "a list" if isinstance(value, list) else "a single value"


def _key_lines(node: Any, prefix: str = "", depth: int = 0) -> dict[str, int]:
    lines: dict[str, int] = {}
    if not isinstance(node, yaml.MappingNode) or depth > _MAX_KEY_DEPTH:
        return lines
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        lines[name] = key.start_mark.line + 1
        lines |= _key_lines(value, f"{name}.", depth + 1)
    return lines


def to_yaml(values: Mapping[str, Any]) -> str:
    """YAML that `parse_yaml` reads back to the same values, keys in the order given."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def parse_value(text: str) -> Any:
    """What the right side of `a.b=c` means: a YAML scalar, or a flow value that starts with `[`, `{` or a quote.

    A plain scalar is taken whole, so that `#`, `@`, `*` and `: ` inside it need no quoting.
    """
    text = text.strip()
    if text[:1] in {"[", "{", '"', "'"}:
        return parse_yaml(f"value: {text}").values["value"]
    loader = _Loader("")
    try:
        tag = loader.resolve(yaml.ScalarNode, text, (True, False))
        return loader.construct_object(yaml.ScalarNode(tag, text)) if "merge" not in tag else text
    finally:
        loader.dispose()


def parse_overrides(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """`a.b=c`, `--a.b=c` and the pair `--a.b c` as (dotted key, value), in order.

    Raises:
        ConfigError: for a word that is none of these, or a flag without a value.
    """
    pairs: list[tuple[str, Any]] = []
    words = iter(overrides)
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            text = next(words, None) if word.startswith("--") else None
        if text is None or not all(key.split(".")):
            raise _not_an_override(word)
        pairs.append((key, _override_value(key, text)))
    return pairs


def _override_value(key: str, text: str) -> Any:
    try:
        return parse_value(text)
    except ConfigError as error:
        raise ConfigError(
            f"{text!r} cannot be read: {error.found}",
            expected="a value such as 3e-5, true, null, [a, b] or {a: 1}",
            fix="close its brackets and quotes, and quote it for the shell",
            where=key,
        ) from None


def _not_an_override(word: str) -> ConfigError:
    return ConfigError(
        f"{word!r} sets nothing",
        expected="section.key=value, as in train.learning_rate=3e-5",
        fix=f"write {word.lstrip('-').rstrip('=')}=VALUE, without spaces around the =",
        where="overrides",
    )


def apply_overrides(document: Document, overrides: Sequence[str], shorthand: Mapping[str, str]) -> Document:
    """A new document with the overrides set; `shorthand` says which sections may be a bare name, and for which key."""
    values, pairs = document.values, parse_overrides(overrides)
    for key, value in pairs:
        values = _with(values, key.split("."), value, shorthand, key)
    return replace(document, values=values, overridden=document.overridden | {key for key, _ in pairs})


def _with(values: Any, path: list[str], value: Any, shorthand: Mapping[str, str], key: str) -> dict[str, Any]:
    head, *rest = path
    if not rest:
        return {**values, head: value}
    inner = values.get(head)
    if isinstance(inner, str) and head in shorthand:
        inner = {shorthand[head]: inner}
    if inner is not None and not isinstance(inner, Mapping):
        raise ConfigError(
            f"{head!r} is {inner!r}, so it has no key {rest[0]!r}",
            expected="a section with keys of its own",
            fix=f"set {head} itself, or leave {key} out",
            where=key,
        )
    return {**values, head: _with(inner or {}, rest, value, {}, key)}
