"""The original's `flagai.data.tokenizer.opt.opt_en_tokenizer`. It holds nothing itself."""

from flagai._compat._adapters.lm_tokenizers import OPTTokenizer

__all__ = ["OPTTokenizer"]
