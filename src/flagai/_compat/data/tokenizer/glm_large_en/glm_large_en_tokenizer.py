"""The original's `flagai.data.tokenizer.glm_large_en.glm_large_en_tokenizer`. It holds nothing itself."""

from flagai._compat._adapters.glm_tokenizer import GLMLargeEnWordPieceTokenizer

__all__ = ["GLMLargeEnWordPieceTokenizer"]
