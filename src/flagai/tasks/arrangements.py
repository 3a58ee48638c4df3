"""How a source and its target lie in a model's input, by family: four small classes. Knows ids, no text and no loss.

A target is learned by its tokens alone; nothing is asked at the tokens of the source. What every arrangement gives
to the model has the one mask `logits_to_keep`: logits are computed for the tokens that are learned and no others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from flagai.data.batching import pad
from flagai.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from flagai.generate.writers.base import Prompt

IGNORED: Final = -100
_LEAST_SOURCE: Final = 4
Ids = Sequence[int]
Batch = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an arrangement must know of a model and its tokenizer; kept in task.json.

    Args:
        pad: the id of pads.
        end: the id that ends an answer.
        start: what a decoder reads first (encoder-decoder), or a GLM's start of a piece; None for other families.
        positions: most tokens that the model has positions for; None without a bound.
        segments: whether source and target are told apart by token types (encoder).
    """

    pad: int
    end: int
    start: int | None = None
    positions: int | None = None
    segments: bool = False


class Arrangement(ABC):
    """One family's way of laying out sources and targets.

    Args:
        facts: see `Facts`.
    """

    apart: ClassVar[bool] = False
    """whether positions of source and target are counted apart"""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    def room(self, target: int) -> int | None:
        """Most tokens of a source beside a target of so many tokens; None without a bound.

        Raises:
            ConfigError: the target leaves no room.
        """
        positions = self.facts.positions
        if positions is None:
            return None
        room = positions if self.apart else positions - target
        if target > positions or room < _LEAST_SOURCE:
            raise ConfigError(
                f"targets of {target} tokens leave no room for a source: the model has {positions} positions",
                where="data.max_target_length",
                expected=f"at most {positions if self.apart else positions - _LEAST_SOURCE}",
                fix="lower it, or choose a model with more positions",
            )
        return room

    @abstractmethod
    def batch(self, sources: Sequence[Ids], targets: Sequence[Ids] | None) -> Batch:
        """Right-padded inputs int64 (masks bool), and of what is no input `labels` and `prompt_length` [B]: how many
        tokens of `input_ids` are read before an answer is written. Without targets there is nothing but the sources.
        """

    def prompt(self, ids: Ids) -> Prompt:
        """What is read before an answer is written."""
        from flagai.generate.writers.base import Prompt

        return Prompt(ids=tuple(ids))

    def _sources(self, sources: Sequence[Ids]) -> Batch:
        return {
            "input_ids": pad(sources, self.facts.pad),
            "attention_mask": pad([[1] * len(ids) for ids in sources], 0),
            "prompt_length": np.array([len(ids) for ids in sources], dtype=np.int64),
        }


class EncoderDecoder(Arrangement):
    """The encoder reads the source, the decoder start and target (T5, BART)."""

    apart = True

    def batch(self, sources: Sequence[Ids], targets: Sequence[Ids] | None) -> Batch:
        batch = self._sources(sources)
        if targets is None:
            return batch
        start = self.facts.start
        assert start is not None
        labels = pad(targets, IGNORED)
        batch["decoder_input_ids"] = pad([[start, *ids[:-1]] for ids in targets], self.facts.pad)
        return batch | {"labels": labels, "logits_to_keep": labels != IGNORED}


class Decoder(Arrangement):
    """One row, left to right: source, target. The last token of the source predicts the first of the target."""

    def batch(self, sources: Sequence[Ids], targets: Sequence[Ids] | None) -> Batch:
        if targets is None:
            return self._framed(self._sources(sources))
        rows = [[*source, *target[:-1]] for source, target in zip(sources, targets, strict=True)]
        labels = [[*[IGNORED] * (len(s) - 1), *t] for s, t in zip(sources, targets, strict=True)]
        lengths = self._sources(sources)["prompt_length"]
        batch = self._sources(rows) | {"prompt_length": lengths, "labels": pad(labels, IGNORED)}
        return self._framed(batch | {"logits_to_keep": batch["labels"] != IGNORED})

    def _framed(self, batch: Batch) -> Batch:
        return batch


class PrefixEncoder(Decoder):
    """The same row for a BERT: the source is segment 0 and is seen by all, the target is segment 1 and sees itself
    from left to right (Dong et al. 2019, figure 1)."""

    def _framed(self, batch: Batch) -> Batch:
        real, width = batch["attention_mask"].astype(bool), batch["attention_mask"].shape[1]
        inside = np.arange(width)[None] < batch["prompt_length"][:, None]
        # [B, 1, L, L]: whom each token sees; a pad sees the first token, since a softmax over nothing has no value.
        seen = (inside[:, None] | np.tri(width, dtype=bool)) & real[:, None]
        seen &= real[:, :, None] | (np.arange(width) == 0)
        batch["attention_mask"] = seen[:, None]
        if self.facts.segments:
            batch["token_type_ids"] = (real & ~inside).astype(np.int64)
        return batch


class Blank(Arrangement):
    """A GLM's: the context with its mask, then start and target at the place of the mask (Du et al. 2022, section 2.1).

    A batch without targets holds contexts alone. `masks` are the ids of mask tokens; the first one is the blank.
    """

    apart = True

    def __init__(self, facts: Facts, masks: tuple[int, ...]) -> None:
        super().__init__(facts)
        self._masks = masks

    def batch(self, sources: Sequence[Ids], targets: Sequence[Ids] | None) -> Batch:
        batch = self._sources(sources)
        if targets is None:
            return batch
        start = self.facts.start
        assert start is not None
        rows = [[*s, start, *t[:-1]] for s, t in zip(sources, targets, strict=True)]
        labels = pad([[*[IGNORED] * len(s), *t] for s, t in zip(sources, targets, strict=True)], IGNORED)
        lengths = batch["prompt_length"]
        positions = np.zeros((len(rows), 2, labels.shape[1]), dtype=np.int64)
        for at, (source, target) in enumerate(zip(sources, targets, strict=True)):
            positions[at, 0, : len(source)] = np.arange(len(source))
            there = slice(len(source), len(source) + len(target))
            positions[at, 0, there] = self._mask_of(source)
            positions[at, 1, there] = np.arange(1, len(target) + 1)
        inputs = self._sources(rows) | {"prompt_length": lengths, "context_length": lengths, "position_ids": positions}
        return inputs | {"labels": labels, "logits_to_keep": labels != IGNORED}

    def prompt(self, ids: Ids) -> Prompt:
        from flagai.generate.writers.base import Prompt

        return Prompt(ids=tuple(ids), blanks=(self._mask_of(ids),))

    def _mask_of(self, ids: Ids) -> int:
        return next(at for at, number in enumerate(ids) if number in self._masks)


def arrangement_of(family: str, facts: Facts, tokenizer: Any) -> Arrangement:
    """The arrangement of a family."""
    if family == "glm":
        return Blank(facts, tokenizer.commands.mask_ids)
    kinds: dict[str, type[Arrangement]] = {
        "encoder-decoder": EncoderDecoder,
        "decoder": Decoder,
        "encoder": PrefixEncoder,
    }
    return kinds[family](facts)


def facts_of(family: str, config: Any, tokenizer: Any, positions: int | None) -> Facts:
    """From a Hugging Face configuration and its tokenizer.

    Args:
        positions: of the model's tables (`models.families.positions_of`).

    Raises:
        ModelError: nothing ends an answer, or nothing starts one.
    """
    from flagai.models.families import end_ids_of

    ends = end_ids_of(tokenizer)
    if not ends:
        raise _lacks("no token that ends an answer", "an eos_token or a sep_token in the tokenizer's settings")
    pad_id = next(i for i in (tokenizer.pad_token_id, ends[0]) if i is not None)
    start = None
    if family == "glm":
        start = tokenizer.commands.sop
    elif family == "encoder-decoder":
        start = _start_of(config, tokenizer)
    segments = int(getattr(config, "type_vocab_size", 1) or 1) > 1
    return Facts(pad=pad_id, end=ends[0], start=start, positions=positions, segments=segments)


def _start_of(config: Any, tokenizer: Any) -> int:
    from flagai.models.families import start_of

    start = start_of(config, tokenizer.pad_token_id)
    if start is None or start >= config.vocab_size:
        raise _lacks("no token that a decoder starts with", "decoder_start_token_id in config.json")
    return start


def _lacks(what: str, expected: str) -> ModelError:
    return ModelError(f"the model has {what}", expected=expected, fix="set it, or choose another model", where="model")
