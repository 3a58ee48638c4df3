"""The original's `flagai.data.tokenizer.glm_10b_en`: see `glm_10b_en_bpe_tokenizer`. It holds nothing itself."""
