"""The original's `flagai.model`: `bert_model` and `predictor`. It holds nothing itself."""
