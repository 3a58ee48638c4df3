"""The original's `flagai.data.tokenizer`: the BERT WordPiece of this release. It holds nothing itself."""

from flagai._compat._adapters.later import GENERATION, later
from flagai._compat._adapters.tokenizer import BertTokenizer, BertWordPieceTokenizer, Tokenizer

__all__ = ["BertTokenizer", "BertWordPieceTokenizer", "Tokenizer"]
__getattr__ = later(
    __name__,
    [
        "CPMTokenizer",
        "GLM10bENBPETokenizer",
        "GLMLargeChTokenizer",
        "GLMLargeEnWordPieceTokenizer",
        "OPTTokenizer",
        "ROBERTATokenizer",
        "T5BPETokenizer",
        "T5PegasusTokenizer",
    ],
    GENERATION,
)
