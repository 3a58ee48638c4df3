"""The original's `flagai.data.tokenizer`: its tokenizers by their names. It holds nothing itself."""

from flagai._compat._adapters.glm_tokenizer import (
    GLM10bENBPETokenizer,
    GLMLargeChTokenizer,
    GLMLargeEnWordPieceTokenizer,
)
from flagai._compat._adapters.lm_tokenizers import (
    CPMTokenizer,
    OPTTokenizer,
    ROBERTATokenizer,
    T5BPETokenizer,
    T5PegasusTokenizer,
)
from flagai._compat._adapters.tokenizer import BertTokenizer, BertWordPieceTokenizer, Tokenizer

__all__ = [
    "BertTokenizer",
    "BertWordPieceTokenizer",
    "CPMTokenizer",
    "GLM10bENBPETokenizer",
    "GLMLargeChTokenizer",
    "GLMLargeEnWordPieceTokenizer",
    "OPTTokenizer",
    "ROBERTATokenizer",
    "T5BPETokenizer",
    "T5PegasusTokenizer",
    "Tokenizer",
]
