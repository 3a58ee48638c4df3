"""The original's `flagai.env_args`. It holds nothing itself."""

from flagai._compat._adapters.env import EnvArgs

__all__ = ["EnvArgs"]
