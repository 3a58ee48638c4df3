"""Lets the processes of a test find the functions they run: they are started afresh and import them by name."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
