"""The original's `flagai.model.gpt2_model`. It holds nothing itself."""

from flagai._compat._adapters.lm import GPT2Model

__all__ = ["GPT2Model"]
