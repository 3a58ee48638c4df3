"""The pre-training objective of GLM: a sample of token ids → what is fed and what is to be predicted, in NumPy.

It knows no text, no model and no torch. A row depends on nothing but (seed, epoch, position), the ids and the options:
it is the same for any number of workers and in any order. Source: Du et al. 2022, sections 2.1 and 2.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flagai.data.streams import stream
from flagai.errors import ConfigError, DataError
from flagai.models.glm.blank_layout import Blanked, Mode, collate_blanks, lay_out, lay_out_suffix
from flagai.models.glm.blank_options import PUBLISHED, BlankOptions
from flagai.models.glm.blank_pieces import Sample, short_samples
from flagai.models.glm.sentence_ends import SENTENCE_ENDS, sentence_ends_of
from flagai.models.glm.spans import Spans, documents, long_span, sentence_spans, special_tokens, token_spans

if TYPE_CHECKING:
    from flagai.models.glm.commands import Commands

__all__ = [
    "PUBLISHED",
    "SENTENCE_ENDS",
    "BlankOptions",
    "Blanked",
    "check_blanks",
    "collate_blanks",
    "make_blanks",
    "make_rows",
    "sentence_ends_of",
]


def make_blanks(
    ids: Sequence[int] | np.ndarray,
    *,
    commands: Commands,
    sentence_ends: np.ndarray,
    options: BlankOptions,
    seed: int,
    epoch: int,
    position: int,
    loss_mask: Sequence[int] | np.ndarray | None = None,
) -> Blanked:
    """The first row of `make_rows`, which explains the arguments; the only one unless `short_seq_prob` is set."""
    keys = (seed, epoch, position)
    return next(_rows(_checked(ids, loss_mask, commands), commands, sentence_ends, options, keys))


def make_rows(
    ids: Sequence[int] | np.ndarray,
    *,
    commands: Commands,
    sentence_ends: np.ndarray,
    options: BlankOptions,
    seed: int,
    epoch: int,
    position: int,
    loss_mask: Sequence[int] | np.ndarray | None = None,
) -> list[Blanked]:
    """Draw the blanks of one sample: one row, or several where it is cut into short samples (`short_seq_prob`).

    Args:
        ids: [n] one or more documents as `[CLS] … eos`, without pads. Special tokens are never masked, and no span
            reaches over one; only a suffix (document mode) may hold several documents.
        sentence_ends: ids of the tokens that end a sentence, ascending (`sentence_ends_of`).
        seed, epoch, position: with the ids, all that the draw depends on; `position` numbers the samples.
        loss_mask: [n] 0 for prompt tokens, which a suffix does not predict; the other modes ignore it (so the original)

    Each sample draws its mode, where the original draws one for a whole micro-batch. Where a sample does not allow the
    mode drawn, it gets token mode, and `Blanked.wanted` tells what was drawn: sentence mode without a sentence,
    document mode with less than three tokens or with a suffix that is all prompt.

    A row is longer than its sample by two tokens a span (in a suffix, by one).

    Raises:
        DataError: no token that could be masked, ids that are no flat integers ≥ 0, a loss mask of another length.
        ConfigError: `block_mask_prob` without a [dBLOCK] in the vocabulary.
    """
    keys = (seed, epoch, position)
    return list(_rows(_checked(ids, loss_mask, commands), commands, sentence_ends, options, keys))


def check_blanks(options: BlankOptions, commands: Commands) -> None:
    """Whether a vocabulary has what the options ask for. Raises `ConfigError`."""
    if options.block_mask_prob and commands.dblock is None:
        raise ConfigError(
            f"block_mask_prob is {options.block_mask_prob}, and the vocabulary has no [dBLOCK]",
            expected="a vocabulary with the token [dBLOCK]",
            fix="set block_mask_prob to 0, or take a tokenizer that has it",
            where="blanks",
        )


def _rows(
    sample: Sample, commands: Commands, ends: np.ndarray, options: BlankOptions, keys: tuple[int, int, int]
) -> Iterator[Blanked]:
    """All rows of a sample, one after another from one generator: the first needs none of the later."""
    check_blanks(options, commands)
    rng = stream("blanks", *keys)
    short, single, kind = rng.random(3)
    samples = [sample]
    if short < options.short_seq_prob:
        length = options.sequence_length or len(sample.ids)
        samples = short_samples(sample, length=length, ends=ends, commands=commands, rng=rng)
    one_span = bool(single < options.single_span_prob)
    drawer = _Drawer(commands, options, rng, one_span=one_span)
    if one_span or kind < options.bert_prob:
        yield from map(drawer.token, samples)
    elif kind < options.bert_prob + options.gap_sentence_prob:
        yield from (drawer.sentence(one, ends) for one in samples)
    else:
        size = _generated(samples, options.gpt_min_ratio, rng)
        yield from (drawer.document(one, size) for one in samples)


def _generated(samples: list[Sample], ratio: float, rng: np.random.Generator) -> int:
    """How many tokens document mode generates at most, for all pieces of a sample together."""
    lengths = [len(sample.ids) for sample in samples]
    most = max(1, max(lengths) - 2)
    return int(rng.integers(min(most, max(1, int(ratio * min(lengths)))), most + 1))


class _Drawer:
    """The modes, each from a sample to its row."""

    def __init__(self, commands: Commands, options: BlankOptions, rng: np.random.Generator, *, one_span: bool) -> None:
        self._commands, self._options, self._rng, self._one_span = commands, options, rng, one_span

    def token(self, sample: Sample, wanted: Mode = "token") -> Blanked:
        docs = documents(sample.special)
        spans = token_spans(docs, len(sample.ids), self._options, self._rng, one_span=self._one_span)
        hidden = None
        if self._options.block_mask_prob:
            hidden = self._rng.random(len(sample.ids)) < self._options.block_mask_prob
        return self._row(sample, spans, self._commands.mask, "token", wanted, hidden)

    def sentence(self, sample: Sample, ends: np.ndarray) -> Blanked:
        spans = sentence_spans(sample.ids, sample.special, ends, self._options.gap_sentence_ratio, self._rng)
        if not len(spans.starts):
            return self.token(sample, wanted="sentence")
        return self._row(sample, spans, self._mask(self._commands.smask), "sentence", "sentence")

    def document(self, sample: Sample, size: int) -> Blanked:
        docs = documents(sample.special)
        if len(docs.starts) == 1 and self._rng.random() >= self._options.gpt_infill_prob:
            mode: Mode = "infill"
        else:
            mode = "suffix"
        if mode == "suffix" and self._options.whole_answer_prob:
            size = self._whole_answer(sample) or size
        size = min(size, len(sample.ids) - 2)
        if size < 1 or (mode == "suffix" and not sample.predicted[-size:].any()):
            return self.token(sample, wanted=mode)
        if mode == "suffix":
            return self._suffix(sample, size)
        spans = long_span(docs, size, self._rng)
        return self._row(sample, spans, self._mask(self._commands.gmask), mode, mode)

    def _whole_answer(self, sample: Sample) -> int:
        """The length of the text behind the prompt where it is drawn to be the suffix, else 0; so without a prompt."""
        drawn = self._rng.random() < self._options.whole_answer_prob
        words = np.flatnonzero(~sample.special)
        learned = np.flatnonzero(sample.predicted & ~sample.special)
        if not drawn or not len(learned) or learned[0] == words[0]:
            return 0
        return len(sample.ids) - int(learned[0])

    def _suffix(self, sample: Sample, size: int) -> Blanked:
        ids, positions, labels, cut = lay_out_suffix(
            sample.ids,
            size,
            sample.predicted,
            mask=self._mask(self._commands.gmask),
            commands=self._commands,
            block_positions=self._options.block_positions,
        )
        return _blanked(ids, positions, labels, cut, "suffix", "suffix")

    def _row(
        self, sample: Sample, spans: Spans, mask: int, mode: Mode, wanted: Mode, hidden: np.ndarray | None = None
    ) -> Blanked:
        count = len(spans.starts)
        order = self._rng.permutation(count) if self._options.shuffle_blocks else np.arange(count)
        ids, positions, labels, cut = lay_out(
            sample.ids,
            spans,
            order,
            mask=mask,
            commands=self._commands,
            hidden=hidden,
            block_positions=self._options.block_positions,
        )
        return _blanked(ids, positions, labels, cut, mode, wanted)

    def _mask(self, special: int | None) -> int:
        """[sMASK] or [gMASK], or [MASK] where the vocabulary has none or the options want none."""
        return self._commands.mask if special is None or not self._options.task_masks else special


def _blanked(ids: np.ndarray, positions: np.ndarray, labels: np.ndarray, cut: int, mode: Mode, wanted: Mode) -> Blanked:
    return Blanked(input_ids=ids, position_ids=positions, labels=labels, context_length=cut, mode=mode, wanted=wanted)


def _checked(ids: Any, loss_mask: Any, commands: Commands) -> Sample:
    """What was handed in as arrays that fit one another."""
    array = np.asarray(ids)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
        raise DataError(
            f"a sample of {array.dtype} with shape {array.shape}", expected="a flat, non-empty sequence of token ids"
        )
    array = array.astype(np.int64)
    if array.min() < 0:
        raise DataError(f"a sample with the token id {array.min()}", expected="ids from 0")
    special = special_tokens(array, commands)
    if special.all():
        raise DataError(
            f"a sample of {len(array)} special tokens and nothing else",
            expected="at least one token that can be masked",
            fix="leave empty documents out of the corpus",
        )
    predicted = np.ones(len(array), dtype=bool) if loss_mask is None else np.asarray(loss_mask) != 0
    if predicted.shape != array.shape:
        raise DataError(
            f"a loss mask of shape {predicted.shape} for {len(array)} tokens", expected="one number a token"
        )
    return Sample(array, predicted, special)
