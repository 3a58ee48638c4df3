"""The command line: one thin file a verb. Knows no model; what a verb needs is imported when it runs."""

from __future__ import annotations

from flagai.cli.ending import main as main
