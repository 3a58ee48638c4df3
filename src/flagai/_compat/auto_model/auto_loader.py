"""The original's `flagai.auto_model.auto_loader`. It holds nothing itself."""

from flagai._compat._adapters.loader import AutoLoader

__all__ = ["AutoLoader"]
