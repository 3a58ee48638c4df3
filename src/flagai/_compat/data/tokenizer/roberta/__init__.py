"""The original's `flagai.data.tokenizer.roberta`: see `roberta_tokenizer`. It holds nothing itself."""
