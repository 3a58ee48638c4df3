"""What the original has in `flagai.data`: `collate_utils` and `tokenizer`. It holds nothing itself."""
