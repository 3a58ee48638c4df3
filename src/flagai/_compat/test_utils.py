"""The original's `flagai.test_utils`: the settings of its collate functions. It holds nothing itself."""

from flagai._compat._adapters.later import PROMPTS, later
from flagai._compat._adapters.seq2seq import Seq2SeqCollateArguments

__all__ = ["Seq2SeqCollateArguments"]
__getattr__ = later(__name__, ["CollateArguments"], PROMPTS)
