"""The original's `flagai.model.predictor`: see `predictor`. It holds nothing itself."""
