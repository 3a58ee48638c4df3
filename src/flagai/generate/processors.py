"""What changes the scores of the next token before one is chosen. Knows scores and tokens, no model and no search.

A processor takes `history` [rows, n], the tokens of each row's answer so far, aligned to the right and filled up with
-1, and `scores` [rows, V]; it gives new scores. One with `counts_prompt` reads the whole text where a model continues
its prompt. The results are those of Hugging Face's processors of the same names.
Their order is Hugging Face's too: repetition, n-grams, forbidden tokens, least length, then for draws temperature,
top-k, top-p, min-p. The original FlagAI had other orders in different places and left some of them out for blanks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flagai.errors import ConfigError, ModelError
from flagai.generate.options import GenerationOptions

Processor = Callable[[Tensor, Tensor], Tensor]
NOTHING = -1
"""what stands in `history` where a row has no token"""


@dataclass(frozen=True, kw_only=True)
class RepetitionPenalty:
    """Scores of tokens in the history: divided by `penalty` where positive, multiplied where negative (Keskar 2019)."""

    penalty: float
    counts_prompt: ClassVar[bool] = True

    def __call__(self, history: Tensor, scores: Tensor) -> Tensor:
        if not history.shape[1]:
            return scores
        # Only what was written is touched. The last column has a token wherever any has: it stands in for NOTHING.
        last = history[:, -1:]
        tokens = torch.where(history < 0, last, history).clamp(min=0)
        found = scores.gather(1, tokens)
        penalised = torch.where(found < 0, found * self.penalty, found / self.penalty)
        return scores.scatter(1, tokens, torch.where(last < 0, found, penalised))


@dataclass(frozen=True, kw_only=True)
class NoRepeatNgram:
    """Forbids tokens that would end a run of `size` tokens which the history has already."""

    size: int
    counts_prompt: ClassVar[bool] = True

    def __call__(self, history: Tensor, scores: Tensor) -> Tensor:
        if history.shape[1] < self.size:
            return scores
        last = history[:, history.shape[1] - self.size + 1 :]
        runs = history.unfold(1, self.size, 1)
        # A row shorter than the run has NOTHING at its start, which no other run of tokens equals.
        same = (runs[..., :-1] == last[:, None]).all(-1) & (runs >= 0).all(-1)
        banned = torch.where(same, -torch.inf, torch.inf).to(scores.dtype)
        return scores.scatter_reduce(1, runs[..., -1].clamp(min=0), banned, "amin")


@dataclass(frozen=True, kw_only=True)
class Forbidden:
    """Tokens that are never chosen.

    Args:
        ids: int64 [n].
    """

    ids: Tensor

    def __call__(self, history: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, self.ids, -torch.inf)


@dataclass(frozen=True, kw_only=True)
class LeastLength:
    """No end before `length` tokens.

    Args:
        end_ids: int64 [n].
    """

    length: int
    end_ids: Tensor

    def __call__(self, history: Tensor, scores: Tensor) -> Tensor:
        short = (history >= 0).sum(1, keepdim=True) < self.length
        return torch.where(short, scores.index_fill(1, self.end_ids, -torch.inf), scores)


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """Scores divided by a number: above 1 flattens the distribution."""

    value: float

    def __call__(self, history: Tensor, scores: Tensor) -> Tensor:
        return scores / self.value


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Keeps the k highest scores, and those equal to the k-th."""

    k: int

    def __call__(self, history: Tensor, scores: Tensor) -> Tensor:
        lowest = scores.topk(min(self.k, scores.shape[1])).values[:, -1:]
        return scores.masked_fill(scores < lowest, -torch.inf)


@dataclass(frozen=True, kw_only=True)
class TopP:
    """Keeps the fewest tokens whose probabilities reach p together, at least one (Holtzman et al. 2020)."""

    p: float

    def __call__(self, history: Tensor, scores: Tensor) -> Tensor:
        ascending, order = scores.sort(dim=1)
        drop = ascending.softmax(1).cumsum(1) <= 1 - self.p
        drop[:, -1] = False
        return scores.masked_fill(drop.scatter(1, order, drop), -torch.inf)


@dataclass(frozen=True, kw_only=True)
class MinP:
    """Keeps tokens at least `share` times as probable as the most probable one."""

    share: float

    def __call__(self, history: Tensor, scores: Tensor) -> Tensor:
        probabilities = scores.softmax(1)
        return scores.masked_fill(probabilities < self.share * probabilities.amax(1, keepdim=True), -torch.inf)


def make_processors(
    options: GenerationOptions,
    *,
    end_ids: Sequence[int],
    forbidden: Sequence[int] = (),
    device: torch.device,
    constraint: Processor | None = None,
) -> list[Processor]:
    """The processors that the options ask for, in order; none for an option at its default.

    Args:
        end_ids: tokens that end an answer.
        forbidden: tokens that no answer may have, beside `suppress_tokens`.
        constraint: what `options.constraints` allow.
    """
    made: list[Processor] = []
    if options.repetition_penalty != 1:
        made.append(RepetitionPenalty(penalty=options.repetition_penalty))
    if options.no_repeat_ngram_size:
        made.append(NoRepeatNgram(size=options.no_repeat_ngram_size))
    if banned := sorted({*options.suppress_tokens, *forbidden}):
        made.append(Forbidden(ids=torch.tensor(banned, device=device)))
    if options.min_new_tokens:
        ends = torch.tensor(list(end_ids), dtype=torch.long, device=device)
        made.append(LeastLength(length=options.min_new_tokens, end_ids=ends))
    if constraint is not None:
        made.append(constraint)
    return made + _warpers(options) if options.do_sample else made


def _warpers(options: GenerationOptions) -> list[Processor]:
    """What only matters to draws: it changes no order of scores."""
    made: list[Processor] = []
    if options.temperature != 1:
        made.append(Temperature(value=options.temperature))
    if options.top_k:
        made.append(TopK(k=options.top_k))
    if options.top_p < 1:
        made.append(TopP(p=options.top_p))
    if options.min_p:
        made.append(MinP(share=options.min_p))
    return made


def apply(processors: Sequence[Processor], history: Tensor, scores: Tensor, texts: Tensor | None = None) -> Tensor:
    """The scores after all processors, in order.

    Args:
        texts: as `history`, with each row's prompt in front of its answer; what processors with `counts_prompt` read
            in place of it, where given.
    """
    for processor in processors:
        counts_prompt = texts is not None and getattr(processor, "counts_prompt", False)
        scores = processor(texts if counts_prompt else history, scores)  # type: ignore[arg-type]
    return scores


def no_token_allowed() -> ConfigError:
    """The error where the options forbid every token, the end among them."""
    return ConfigError(
        "the options allow no token: every token of the vocabulary is forbidden, the end of an answer too",
        where="generate",
        expected="at least one token that may come next",
        fix="shorten suppress_tokens, lower min_new_tokens, or raise no_repeat_ngram_size",
    )


def no_numbers() -> ModelError:
    """The error where a model gives NaN in place of scores: any token would be as good as any other."""
    return ModelError(
        "the model's scores are no numbers (NaN)",
        where="generate",
        expected="finite scores",
        fix="load it in bf16 or fp32, as fp16 may overflow; or look whether its training went wrong",
    )
