"""The original's `flagai.test_utils`: says which release brings its classes. It holds nothing itself."""

from flagai._compat._adapters.later import PROMPTS, later

__getattr__ = later(__name__, ["CollateArguments"], PROMPTS)
