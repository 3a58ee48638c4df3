"""The original's `flagai.data.tokenizer.glm_large_en`: see `glm_large_en_tokenizer`. It holds nothing itself."""
