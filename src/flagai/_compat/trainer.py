"""The original's `flagai.trainer`. It holds nothing itself."""

from flagai._compat._adapters.trainer import Trainer, save_best

__all__ = ["Trainer", "save_best"]
