"""The original's `flagai.data.tokenizer.glm_large_ch`: see `glm_large_ch_tokenizer`. It holds nothing itself."""
