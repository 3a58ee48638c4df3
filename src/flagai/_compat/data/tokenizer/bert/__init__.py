"""The original's `flagai.data.tokenizer.bert`: see `bert_tokenizer`. It holds nothing itself."""
