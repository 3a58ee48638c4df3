"""Names of the original that this release does not have: importing one says so. Knows no replacement code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flagai.errors import LaterModuleError

PARALLEL = "training on several processes"
PROMPTS = "prompt learning and the SuperGLUE and CLUE data sets"


def later_error(module: str, name: str, what: str) -> LaterModuleError:
    """The error for `name` of `module`, which comes with `what`."""
    return LaterModuleError(
        f"{module}.{name} is not part of this release",
        expected="a name that docs/en/compat.md lists as working",
        fix=f"wait for the release of flagai 2 that brings {what}",
    )


def replaced_error(module: str, name: str, today: str, fix: str) -> LaterModuleError:
    """The error for `name` of `module`, whose work `today` does."""
    return LaterModuleError(f"{module}.{name} is not part of flagai 2", expected=today, fix=fix)


def later(module: str, names: Mapping[str, str] | Iterable[str], what: str = "") -> Callable[[str], Any]:
    """A module's `__getattr__`: ImportError for the names to come, AttributeError for all others.

    Args:
        names: name → what brings it, or names that `what` brings.
    """
    table = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, what)

    def __getattr__(name: str) -> Any:
        if name in table:
            raise later_error(module, name, table[name])
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return __getattr__
