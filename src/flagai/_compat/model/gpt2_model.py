"""The original's `flagai.model.gpt2_model`: says which release brings its classes. It holds nothing itself."""

from flagai._compat._adapters.later import GENERATION, later

__getattr__ = later(__name__, ["GPT2Model"], GENERATION)
