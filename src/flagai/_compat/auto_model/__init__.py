"""The original's `flagai.auto_model`: see `auto_loader`. It holds nothing itself."""
