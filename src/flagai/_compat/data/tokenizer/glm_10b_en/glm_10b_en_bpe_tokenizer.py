"""The original's `flagai.data.tokenizer.glm_10b_en.glm_10b_en_bpe_tokenizer`. It holds nothing itself."""

from flagai._compat._adapters.glm_tokenizer import GLM10bENBPETokenizer

__all__ = ["GLM10bENBPETokenizer"]
