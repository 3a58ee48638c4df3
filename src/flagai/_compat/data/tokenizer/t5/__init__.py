"""The original's `flagai.data.tokenizer.t5`: see `t5_pegasus_tokenizer`. It holds nothing itself."""
