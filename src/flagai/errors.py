"""One tree of errors: every message says what was found, what was expected and what to do.

It knows nothing of models, data or files: it only shapes messages.
Each class is also the standard error it refines, so `except ValueError` keeps working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

_MOST_NAMES: Final = 40


class FlagaiError(Exception):
    """Base of every error that flagai raises on purpose.

    Args:
        found: what was found, in a sentence.
        expected: what would have been right.
        fix: what the user can do now.
        where: the place, as `file`, `file:line` or `section.key`.

    The parts stay readable as attributes; `str(error)` joins those that are set, one a line.
    """

    def __init__(self, found: str, *, expected: str = "", fix: str = "", where: str = "") -> None:
        self.found, self.expected, self.fix, self.where = found, expected, fix, where
        lines = [f"{where}: {found}" if where else found]
        if expected:
            lines.append(f"  expected: {expected}")
        if fix:
            lines.append(f"  to do: {fix}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not pickle by default; worker processes need it.
        return _rebuild, (type(self), self.found, self.expected, self.fix, self.where)


def _rebuild(kind: type[FlagaiError], found: str, expected: str, fix: str, where: str) -> FlagaiError:
    return kind(found, expected=expected, fix=fix, where=where)


class ConfigError(FlagaiError, ValueError):
    """A run.yaml, an override or an argument that cannot be meant."""


class UnknownNameError(ConfigError, LookupError):
    """A task, model, metric, … that is in no table."""


class DataError(FlagaiError, ValueError):
    """A data file or a record that cannot be used."""


class UnknownLabelError(DataError, LookupError):
    """A label in a data file that is not in the task's table."""


class MissingFileError(FlagaiError, FileNotFoundError):
    """A path that does not exist."""


class ModelError(FlagaiError, ValueError):
    """A model, tokenizer or task that do not fit one another."""


class CheckpointError(FlagaiError, ValueError):
    """Weights or state on disk that are incomplete, damaged or unsafe."""


class OutputError(FlagaiError, OSError):
    """An output folder that cannot or must not be written."""


class NonFiniteLossError(FlagaiError, ArithmeticError):
    """The loss became NaN or infinite."""


class OutOfMemoryError(FlagaiError, MemoryError):
    """A step, or a state that it needs, does not fit the device."""


class WorldError(FlagaiError, RuntimeError):
    """A run on several processes of which one is missing, late or cannot be reached."""


class OtherRankError(WorldError):
    """This process stopped because another one did; the message is that of the other."""


class OfflineError(FlagaiError, ConnectionError):
    """Something is not on this machine and the network may not be asked, or did not answer."""


class LaterReleaseError(FlagaiError, AttributeError):
    """A method of the original FlagAI that this release does not have."""


class LaterModuleError(FlagaiError, ImportError):
    """A name or module of the original FlagAI that this release does not have."""


class MissingExtraError(FlagaiError, ImportError):
    """An optional dependency is not installed."""

    @classmethod
    def for_package(cls, package: str, extra: str) -> MissingExtraError:
        """The error that names the extra of flagai which brings `package`."""
        return cls(
            f"the package {package!r} is not installed",
            expected=f"the optional dependencies of flagai[{extra}]",
            fix=f'pip install "flagai[{extra}]"',
        )


def unknown_name(kind: str, name: str, known: Iterable[str], *, where: str = "") -> UnknownNameError:
    """The error for a name that is in no table: the nearest matches first, then the whole list."""
    return UnknownNameError(f"unknown {kind} {name!r}", where=where, **_nearest(name, known))


def unknown_label(label: str, known: Iterable[str], *, where: str) -> UnknownLabelError:
    """The error for a label that a record has and the label table has not."""
    return UnknownLabelError(f"unknown label {label!r}", where=where, **_nearest(label, known))


def _nearest(name: str, known: Iterable[str]) -> dict[str, str]:
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    listed = ", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
    fix = f"did you mean {' or '.join(map(repr, near))}?" if near else "choose one of the names above"
    return {"expected": f"one of: {listed}", "fix": fix}
