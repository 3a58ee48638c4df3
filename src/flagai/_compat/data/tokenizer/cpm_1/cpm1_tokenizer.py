"""The original's `flagai.data.tokenizer.cpm_1.cpm1_tokenizer`. It holds nothing itself."""

from flagai._compat._adapters.lm_tokenizers import CPMTokenizer

__all__ = ["CPMTokenizer"]
