"""The original's `flagai.data.tokenizer.roberta.roberta_tokenizer`. It holds nothing itself."""

from flagai._compat._adapters.lm_tokenizers import ROBERTATokenizer

__all__ = ["ROBERTATokenizer"]
