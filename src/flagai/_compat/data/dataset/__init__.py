"""The original's `flagai.data.dataset`: texts with targets, and what does the work of its other classes today."""

from typing import Any

from flagai._compat._adapters.later import PROMPTS, later, replaced_error
from flagai._compat._adapters.seq2seq import ConstructSeq2seqStrategy, Seq2SeqDataset

__all__ = ["ConstructSeq2seqStrategy", "Seq2SeqDataset"]

_BLANKS = ("BlockDataset", "ConstructBlockStrategy")
_later = later(
    __name__,
    ["SuperGlueDataset", "ConstructSuperglueStrategy", "InputExample", "CollateArguments"],
    PROMPTS,
)


def __getattr__(name: str) -> Any:
    if name in _BLANKS:
        raise replaced_error(
            __name__,
            name,
            "the task blank-infilling, which cuts texts into samples and draws their blanks itself",
            "write `task: blank-infilling` in a run.yaml, see docs/en/glm.md",
        )
    return _later(name)
