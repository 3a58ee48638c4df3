"""HTML that cannot be injected into: every text is escaped unless it was built here. It knows no report."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Final

_NOT_TEXT: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_VOID: Final = frozenset({"meta", "link", "br"})


class Html(str):
    """Text that is already markup. Only this module and literals of ours make it; anything else is escaped."""

    __slots__ = ()


Child = object
"""Html, text, a number, None (nothing), or an iterable of these"""


def text(value: object) -> Html:
    """Escaped; characters that no HTML file may hold (controls, lone surrogates) become U+FFFD."""
    return Html(html.escape(_NOT_TEXT.sub("\ufffd", str(value)), quote=True))


def join(*children: Child) -> Html:
    """The children one after the other; whatever is not Html is escaped."""
    return Html("".join(_flat(children)))


def el(name: str, /, *children: Child, **attributes: object) -> Html:
    """One element. `class_` and `data_x` are written `class` and `data-x`; None and False leave an attribute out.

    Names of elements and attributes come from our code, values and children from anywhere.
    """
    head = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{head}>")
    return Html(f"<{name}{head}>{join(*children)}</{name}>")


def breakable(name: object) -> Html:
    """A name such as `card_payment_fee` that may break after its joints, so that it never breaks inside a word."""
    return Html(re.sub(r"([_/.]|(?<=\w)-)(?=\w)", r"\1<wbr>", text(name)))


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{text(value)}"'


def _flat(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if isinstance(child, Html):
            yield child
        elif isinstance(child, str):
            yield text(child)
        elif isinstance(child, Iterable):
            yield from _flat(child)
        elif child is not None and child is not False:
            yield text(child)
