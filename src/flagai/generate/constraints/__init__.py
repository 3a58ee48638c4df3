"""What an answer must be like: words, choices, patterns, lengths, verse. Knows no model and no search."""

from __future__ import annotations

from flagai.generate.constraints.spec import (
    Constraint,
    JsonSchema,
    Length,
    Matches,
    MustContain,
    MustNotContain,
    OneOf,
    Verse,
)

__all__ = ["Constraint", "JsonSchema", "Length", "Matches", "MustContain", "MustNotContain", "OneOf", "Verse"]
