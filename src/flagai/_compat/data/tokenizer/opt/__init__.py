"""The original's `flagai.data.tokenizer.opt`: see `opt_en_tokenizer`. It holds nothing itself."""
