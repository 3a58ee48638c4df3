"""The original's `flagai.data.tokenizer.bert.bert_tokenizer`. It holds nothing itself."""

from flagai._compat._adapters.tokenizer import BertTokenizer

__all__ = ["BertTokenizer"]
