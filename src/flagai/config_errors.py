"""Turns pydantic's findings into our errors: where, found, expected, what to do.

It knows the shape of a settings class only through its JSON schema, not what a key means.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from flagai.errors import ConfigError, FlagaiError, unknown_name

Schema = Mapping[str, Any]

_OTHER_NAMES: Final = {
    # what the same thing is called elsewhere
    "lr": "train.learning_rate",
    "num_train_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "per_device_train_batch_size": "train.batch_size",
    "train_batch_size": "train.batch_size",
    "lr_scheduler_type": "train.scheduler",
    "warmup_steps": "train.warmup_ratio",
    "patience": "train.early_stopping",
    "save_total_limit": "train.keep_last",
    "gradient_clipping": "train.max_grad_norm",
    "output_dir": "output",
    "model_name_or_path": "model.name",
    "max_seq_length": "data.max_length",
    "dev": "data.eval",
    "validation": "data.eval",
}
_TYPES: Final = {"string": "a text", "boolean": "true or false", "null": "null", "object": "a mapping of keys"}
_BOUNDS: Final = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def translate(error: ValidationError, model: type[BaseModel], where: Callable[[str], str] = str) -> ConfigError:
    """One of our errors for all that pydantic found: the first in full, the others named below it.

    Args:
        error: what pydantic raised while it built `model`.
        model: the settings class.
        where: turns a dotted key into the place to show, for instance `run.yaml:7: train.epochs`.
    """
    schema = model.model_json_schema()
    found: dict[str, ConfigError] = {}
    # A misspelt key explains why another one is missing, so it comes first.
    for item in sorted(error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden"):
        key = ".".join(_key_of(item["loc"], schema))
        found.setdefault(key, _one(item, key, schema, where))
    first, *others = found.values()
    if not others:
        return first
    also = "".join(f"\n  also: {other.where}: {other.found}" for other in others)
    return type(first)(first.found, expected=first.expected, fix=first.fix + also, where=first.where)


def _one(item: Any, key: str, schema: Schema, where: Callable[[str], str]) -> ConfigError:
    own = item.get("ctx", {}).get("error")
    if isinstance(own, FlagaiError):
        return ConfigError(own.found, expected=own.expected, fix=own.fix, where=where(own.where or key))
    if item["type"] == "extra_forbidden":
        return _unknown_key(key, schema, where(key))
    expected = describe(_at(schema, key.split(".")), schema)
    if item["type"] == "missing":
        return ConfigError("nothing is set", expected=expected, fix=f"set {key}", where=where(key))
    return ConfigError(
        f"found {_shown(item['input'])}", expected=expected, fix=_advice(item, expected, key), where=where(key)
    )


def _advice(item: Any, expected: str, key: str) -> str:
    value = item["input"]
    if isinstance(value, str) and "one of" in expected:
        names = [part.strip("'") for part in expected.replace("one of ", "").replace(" or ", ", ").split(", ")]
        if near := difflib.get_close_matches(value.lower(), names, n=2, cutoff=0.5):
            return f"did you mean {' or '.join(map(repr, near))}?"
    if isinstance(value, int | float) and not isinstance(value, bool) and item["type"] == "string_type":
        return f"if the text is meant, put it in quotes: '{value}'"
    return f"correct {key}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _unknown_key(key: str, schema: Schema, where: str) -> ConfigError:
    section, _, name = key.rpartition(".")
    known = _at(schema, section.split(".") if section else []).get("properties", {})
    error = unknown_name("key", name, known, where=where)
    if error.fix.startswith("did you mean"):
        return error
    elsewhere = [path for path in _paths(schema, schema) if path.rpartition(".")[2] == name]
    elsewhere = elsewhere or [_OTHER_NAMES[name]] if name in _OTHER_NAMES else elsewhere
    near = elsewhere or difflib.get_close_matches(name, list(_paths(schema, schema)), n=2, cutoff=0.6)
    fix = f"did you mean {' or '.join(map(repr, near[:3]))}?" if near else "take the key out"
    return type(error)(error.found, expected=error.expected, fix=fix, where=where)


def _resolve(node: Schema, schema: Schema) -> Schema:
    """The node without references; where several kinds are allowed, the one with keys, if any."""
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    for branch in node.get("anyOf", ()):
        inner = _resolve(branch, schema)
        if "properties" in inner:
            return inner
    return node


def _at(schema: Schema, path: Sequence[str]) -> Schema:
    node = _resolve(schema, schema)
    for part in path:
        node = _resolve(node.get("properties", {}).get(part, {}), schema)
    return node


def _key_of(loc: Sequence[str | int], schema: Schema) -> Iterator[str]:
    """The parts of a location that the user typed: pydantic adds the names of union branches after them."""
    node = _resolve(schema, schema)
    for part in loc:
        yield str(part)
        if part not in node.get("properties", {}):
            return
        node = _resolve(node["properties"][part], schema)
        if "properties" not in node:
            return


def _paths(node: Schema, schema: Schema, prefix: str = "") -> Iterator[str]:
    for name, value in node.get("properties", {}).items():
        yield f"{prefix}{name}"
        yield from _paths(_resolve(value, schema), schema, f"{prefix}{name}.")


def describe(node: Schema, schema: Schema) -> str:
    """A JSON schema node in words: "a number > 0 or null", "one of 'fp32', 'bf16'"."""
    node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(describe(branch, schema) for branch in node["anyOf"]))
    if "enum" in node:
        return f"one of {', '.join(map(repr, node['enum']))}"
    if "const" in node:
        return repr(node["const"])
    if node.get("type") == "array":
        return f"a list of {describe(node.get('items', {}), schema).removeprefix('a ')}s"
    if node.get("type") in {"integer", "number"}:
        bounds = [f"{sign} {node[name]}" for name, sign in _BOUNDS.items() if name in node]
        kind = "a whole number" if node["type"] == "integer" else "a number"
        return " ".join([kind, " and ".join(bounds)]).strip()
    return _TYPES.get(str(node.get("type", "")), "a value")
