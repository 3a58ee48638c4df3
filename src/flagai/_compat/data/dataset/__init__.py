"""The original's `flagai.data.dataset`: says what does the work of its classes. It holds nothing itself."""

from typing import Any

from flagai._compat._adapters.later import GENERATION, PROMPTS, later, replaced_error

_BLANKS = ("BlockDataset", "ConstructBlockStrategy")
_later = later(
    __name__,
    dict.fromkeys(["SuperGlueDataset", "ConstructSuperglueStrategy", "InputExample", "CollateArguments"], PROMPTS)
    | dict.fromkeys(["Seq2SeqDataset", "ConstructSeq2seqStrategy"], GENERATION),
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
