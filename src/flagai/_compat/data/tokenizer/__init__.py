"""The original's `flagai.data.tokenizer`: BERT's WordPiece and the tokenizers of GLM. It holds nothing itself."""

from flagai._compat._adapters.glm_tokenizer import (
    GLM10bENBPETokenizer,
    GLMLargeChTokenizer,
    GLMLargeEnWordPieceTokenizer,
)
from flagai._compat._adapters.later import GENERATION, later
from flagai._compat._adapters.tokenizer import BertTokenizer, BertWordPieceTokenizer, Tokenizer

__all__ = [
    "BertTokenizer",
    "BertWordPieceTokenizer",
    "GLM10bENBPETokenizer",
    "GLMLargeChTokenizer",
    "GLMLargeEnWordPieceTokenizer",
    "Tokenizer",
]
__getattr__ = later(
    __name__,
    [
        "CPMTokenizer",
        "OPTTokenizer",
        "ROBERTATokenizer",
        "T5BPETokenizer",
        "T5PegasusTokenizer",
    ],
    GENERATION,
)
