"""The original's `flagai.env_trainer`. It holds nothing itself."""

from flagai._compat._adapters.env import EnvTrainer

__all__ = ["EnvTrainer"]
