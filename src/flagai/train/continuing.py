"""What differs between a checkpoint and the run that continues it, as a table. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flagai.config import RunConfig

_MACHINE: Final = ("processes", "threads", "torch", "machine", "device", "precision")
"""entries of a manifest that bits depend on and no setting says, or not alone"""
_HARMLESS: Final = frozenset(
    {"train.num_workers", "train.logging_steps", "train.keep_last", "train.keep_best", "train.async_save"}
    | {"train.tensorboard", "train.save_steps", "train.device", "train.precision", "parallel.processes"}
)
"""settings that change no bit, or none that the lines of `_MACHINE` do not tell"""
_UNSAID: Final = frozenset({"output", "train.resume"})
_PIECES: Final = "train.gradient_accumulation_steps"


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting, or one fact of the machine, that is not what it was."""

    key: str
    there: Any
    """in the checkpoint"""
    asked: Any
    """in the settings of now, or on this machine"""
    used: Any
    """with which the run goes on"""

    @property
    def changes_bits(self) -> bool:
        """Whether the run goes on with something else on which bits depend."""
        return self.used != self.there and self.key not in _HARMLESS


def differences(manifest: Mapping[str, Any], config: RunConfig, now: Mapping[str, Any]) -> list[Difference]:
    """All that differs, settings first.

    Args:
        manifest: of the checkpoint; older ones hold no settings.
        now: the facts of `_MACHINE`; `asked_threads` is the number before that of the checkpoint was restored.
    """
    there, here = _flat(manifest.get("settings") or {}), _flat(config.to_dict())
    found = [
        Difference(key, value, here[key], here[key])
        for key, value in there.items()
        if key in here and here[key] != value and key not in _UNSAID
    ]
    pieces = manifest.get("pieces", 1)
    if pieces > 1:
        asked, before = here[_PIECES], f"{there.get(_PIECES, here[_PIECES])} × {pieces}"
        found = [row for row in found if row.key != _PIECES]
        found.append(Difference(_PIECES, before, asked, f"{asked} × {pieces}"))
    return found + list(_machine(manifest, now))


def _machine(manifest: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    for key in _MACHINE:
        if key not in manifest or key not in now:
            continue
        asked = now.get(f"asked_{key}", now[key])
        if (asked, now[key]) != (manifest[key], manifest[key]):
            yield Difference(key, manifest[key], asked, now[key])


def told(rows: Sequence[Difference]) -> str:
    """The differences as a table under a sentence that says what they mean."""
    changed = [row for row in rows if row.changes_bits]
    lines = [("", "in the checkpoint", "in the config", "used")]
    lines += [(row.key, *(_word(value) for value in (row.there, row.asked, row.used))) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = "\n".join(
        "  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )
    head = "what differs changes no bit of the result:"
    if changed:
        head = f"the continued run will not be equal to the bit: {', '.join(row.key for row in changed)}"
    return f"{head}\n{table}{_layout(changed)}"


def _layout(changed: Sequence[Difference]) -> str:
    if not any(row.key == "processes" or row.key.startswith("parallel.") for row in changed):
        return ""
    return (
        "\n  another layout: weights, moments, scaler and the place in the data are those of the checkpoint; "
        "the random numbers of dropout are new ones from here on"
    )


def _word(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
