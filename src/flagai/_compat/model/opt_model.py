"""The original's `flagai.model.opt_model`. It holds nothing itself."""

from flagai._compat._adapters.lm import OPTModel

__all__ = ["OPTModel"]
