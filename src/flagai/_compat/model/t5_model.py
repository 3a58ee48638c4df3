"""The original's `flagai.model.t5_model`. It holds nothing itself."""

from flagai._compat._adapters.later import later
from flagai._compat._adapters.lm import T5Model

T5ForConditionalGeneration = T5Model

__all__ = ["T5ForConditionalGeneration", "T5Model"]
__getattr__ = later(__name__, ["T5UERModel"], "T5 in the form of UER-py, of which no weights are known")
