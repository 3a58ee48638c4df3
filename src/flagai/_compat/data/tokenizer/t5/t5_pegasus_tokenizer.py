"""The original's `flagai.data.tokenizer.t5.t5_pegasus_tokenizer`. It holds nothing itself."""

from flagai._compat._adapters.lm_tokenizers import T5PegasusTokenizer

__all__ = ["T5PegasusTokenizer"]
