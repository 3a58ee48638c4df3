"""The original's `flagai.data.tokenizer.cpm_1`: see `cpm1_tokenizer`. It holds nothing itself."""
