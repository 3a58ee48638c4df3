"""Writes the tables of keys in docs/en/config.md and docs/zh/config.md from the schema of RunConfig.

Run it after a change to the settings: `python docs/make_config_page.py`. With `--check` it only says whether the pages
are current. It knows the schema and the two pages; what a key means stands with the key, in Chinese in config_zh.yaml.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from flagai.config import json_schema

DOCS = Path(__file__).parent
BEGIN, END = "<!-- keys: made by docs/make_config_page.py -->", "<!-- end of keys -->"
HEADERS = {
    "en": ("key", "type", "default", "meaning"),
    "zh": ("键", "类型", "默认值", "含义"),
}
WORDS = {
    "en": {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
    | {"object": "mapping", "array": "list", "or": " or ", "required": "required", "section": "section"},
    "zh": {"integer": "整数", "number": "数", "string": "文本", "boolean": "true 或 false", "null": "null"}
    | {"object": "映射", "array": "列表", "or": " 或 ", "required": "必填", "section": "一组键"},
}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
Node = Mapping[str, Any]


def resolve(node: Node, schema: Node) -> Node:
    """The node without references; where several kinds are allowed, the one with keys, if any."""
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return next((inner for b in node.get("anyOf", ()) if "properties" in (inner := resolve(b, schema))), node)


def keys(node: Node, schema: Node, prefix: str = "") -> Iterator[tuple[str, Node, bool]]:
    """(dotted key, its own node, whether it must be set), sections before their keys."""
    section = resolve(node, schema)
    for name, inner in section.get("properties", {}).items():
        yield f"{prefix}{name}", inner, name in section.get("required", ())
        yield from keys(inner, schema, f"{prefix}{name}.")


def kind(node: Node, schema: Node, words: Mapping[str, str]) -> str:
    """The type of a value in a few words."""
    if "$ref" in node:
        return words["section"]
    if "anyOf" in node:
        return words["or"].join(dict.fromkeys(kind(branch, schema, words) for branch in node["anyOf"]))
    if "enum" in node or "const" in node:
        return ", ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    bounds = ", ".join(f"{sign} {node[name]}" for name, sign in BOUNDS.items() if name in node)
    return f"{words[node['type']]} {bounds}".strip() if "type" in node else ""


def rows(language: str) -> Iterator[tuple[str, str, str, str]]:
    schema, words = json_schema(), WORDS[language]
    chinese = yaml.safe_load((DOCS / "config_zh.yaml").read_text(encoding="utf-8"))
    for key, node, required in keys(schema, schema):
        meaning = node["description"]
        if language == "zh":
            if meaning not in chinese:
                raise SystemExit(f"docs/config_zh.yaml has no translation of {meaning!r} ({key})")
            meaning = chinese[meaning]
        default = words["required"] if required else _default(node, schema)
        yield f"`{key}`", kind(node, schema, words), default, meaning.replace("<", "\\<")


def _default(node: Node, schema: Node) -> str:
    if "properties" in resolve(node, schema) and node.get("default") is not None:
        return ""
    return f"`{json.dumps(node.get('default'))}`"


def table(language: str) -> str:
    lines = [HEADERS[language], ("---",) * 4, *rows(language)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def page(language: str) -> tuple[Path, str, str]:
    """(file, its text now, its text as it should be)."""
    path = DOCS / language / "config.md"
    now = path.read_text(encoding="utf-8")
    head, _, rest = now.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return path, now, f"{head}{BEGIN}\n{table(language)}\n{END}{tail}"


def main(arguments: list[str]) -> int:
    stale = [(path, text) for path, now, text in map(page, HEADERS) if now != text]
    for path, text in stale:
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
        sys.stdout.write(
            f"{path.relative_to(DOCS.parent)} {'is not current' if '--check' in arguments else 'written'}\n"
        )
    return int("--check" in arguments and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
