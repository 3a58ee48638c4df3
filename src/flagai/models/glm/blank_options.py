"""The numbers of the blank-infilling objective, with those of the published runs. Knows no token and draws nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import exp, factorial
from types import MappingProxyType
from typing import Final

from flagai.errors import ConfigError, unknown_name

LONGEST_SPAN: Final = 39
"""The original draws span lengths from 1 to 39 in token mode."""
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, kw_only=True)
class BlankOptions:
    """How often each kind of blank is made, and how large. The defaults are those of the base and large blank models.

    Probabilities and ratios are in [0, 1]; what `bert_prob` and `gap_sentence_prob` leave of 1 is the share of document
    mode. Source: Du et al. 2022, section 2.1, and the configurations of the published runs (see `PUBLISHED`).

    Raises:
        ConfigError: a number out of its range, or shares above 1.
    """

    bert_prob: float = 1.0
    """share of token mode: short spans, each behind a [MASK]"""
    gap_sentence_prob: float = 0.0
    """share of sentence mode: whole sentences, each behind a [sMASK]"""
    gap_sentence_ratio: float = 0.15
    """share of a sample's tokens that sentence mode takes, at least"""
    mask_ratio: float = 0.15
    """share of a sample's tokens that token mode takes, at least"""
    gpt_min_ratio: float = 0.5
    """document mode: least share of a sample that is generated behind the [gMASK]"""
    gpt_infill_prob: float = 0.5
    """document mode, samples of one document: the share cut to its suffix; the others get one blank anywhere"""
    whole_answer_prob: float = 0.0
    """document mode, samples with a prompt: the share of suffixes that are all of the text behind the prompt, as where
    a model is asked; the published runs have none"""
    single_span_prob: float = 0.0
    """share of samples with one short span only"""
    short_seq_prob: float = 0.0
    """share of samples that are cut into several short ones"""
    block_mask_prob: float = 0.0
    """token mode: share of the tokens fed in part B that are replaced by [dBLOCK]; what is predicted stays"""
    shuffle_blocks: bool = True
    """whether the spans stand in random order in part B"""
    block_positions: bool = True
    """whether the second position counts inside a span; without, it is 1 in all of part B"""
    average_span: float = 3.0
    """the parameter of the Poisson distribution of span lengths (1 to 39, so the mean is a little higher)"""
    task_masks: bool = True
    """use [sMASK] and [gMASK] where the vocabulary has them; without, [MASK] stands for every blank"""
    sequence_length: int | None = None
    """the length that samples are packed to, from which short ones are measured; None takes each sample's own"""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith(("_prob", "_ratio")) and not 0.0 <= value <= 1.0:
                raise ConfigError(f"{field.name} is {value}", expected="a number from 0 to 1", where="blanks")
        if self.bert_prob + self.gap_sentence_prob > 1.0 + _ROUNDING:
            raise ConfigError(
                f"bert_prob {self.bert_prob} and gap_sentence_prob {self.gap_sentence_prob} are more than 1 together",
                expected="shares with a sum of at most 1; document mode gets the rest",
                where="blanks",
            )
        if not 0.0 < self.average_span <= LONGEST_SPAN:
            raise ConfigError(
                f"average_span is {self.average_span}", expected=f"above 0, at most {LONGEST_SPAN}", where="blanks"
            )

    @classmethod
    def published(cls, run: str) -> BlankOptions:
        """The options of a published run, by its name in `PUBLISHED`. Errors: `UnknownNameError`."""
        if run not in PUBLISHED:
            raise unknown_name("published run", run, PUBLISHED, where="blanks")
        return PUBLISHED[run]

    def span_weights(self) -> list[float]:
        """Probabilities of the span lengths 1, 2, … 39: Poisson(average_span) without 0 and above 39, sum 1."""
        mean = self.average_span
        weights = [exp(-mean) * mean**length / factorial(length) for length in range(1, LONGEST_SPAN + 1)]
        return [weight / sum(weights) for weight in weights]


_MIXED: Final = BlankOptions(
    bert_prob=0.5, gap_sentence_prob=0.3, gpt_min_ratio=0.25, block_mask_prob=0.1, short_seq_prob=0.02
)

PUBLISHED: Final[Mapping[str, BlankOptions]] = MappingProxyType(
    {
        "base": BlankOptions(),
        "large": BlankOptions(),
        "roberta-large": BlankOptions(),
        "2b": replace(_MIXED, bert_prob=0.4),
        "10b": _MIXED,
        "10b-longer": replace(_MIXED, bert_prob=0.4, short_seq_prob=0.5, single_span_prob=0.05),
        "10b-chinese": _MIXED,
        "10b-chinese-longer": replace(_MIXED, short_seq_prob=0.5),
        "large-chinese": replace(_MIXED, bert_prob=0.4),
    }
)
"""The pre-training runs whose settings are public; "longer" is the second stage, on 1024 tokens."""
