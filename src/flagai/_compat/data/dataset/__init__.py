"""The original's `flagai.data.dataset`: says which release brings its classes. It holds nothing itself."""

from flagai._compat._adapters.later import GENERATION, PROMPTS, later

__getattr__ = later(
    __name__,
    dict.fromkeys(["SuperGlueDataset", "ConstructSuperglueStrategy", "InputExample", "CollateArguments"], PROMPTS)
    | dict.fromkeys(
        ["Seq2SeqDataset", "ConstructSeq2seqStrategy", "BlockDataset", "ConstructBlockStrategy"], GENERATION
    ),
)
