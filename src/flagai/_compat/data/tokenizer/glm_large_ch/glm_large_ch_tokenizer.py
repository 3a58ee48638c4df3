"""The original's `flagai.data.tokenizer.glm_large_ch.glm_large_ch_tokenizer`. It holds nothing itself."""

from flagai._compat._adapters.glm_tokenizer import GLMLargeChTokenizer

__all__ = ["GLMLargeChTokenizer"]
