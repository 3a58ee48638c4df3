"""Texts with tokens hidden → the tokens: masked language modelling (Devlin et al. 2019, section 3.1). Knows no trainer.

Which tokens are hidden is drawn anew in every epoch from (seed, epoch, record, window); held-out texts get the same
ones each time, whatever the run's seed, so that their loss can be compared between steps and between runs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np

from flagai.data.batching import pad
from flagai.data.example import Example
from flagai.data.record import Record
from flagai.data.streams import stream
from flagai.errors import DataError, ModelError
from flagai.tasks.base import Arrays, HeadSpec, Task, need_text
from flagai.tasks.masks import join, split
from flagai.tasks.results import Writing

if TYPE_CHECKING:
    import torch

_SHARE: Final = 0.15
"""of the tokens is predicted; of these 8 in 10 become the mask, 1 in 10 another token, and 1 in 10 stays"""
_MASKED: Final = 0.8
_CHANGED: Final = 0.9
_IGNORED: Final = -100
_HELD_OUT: Final = ("masklm", "held out")


class MaskedLM(Task):
    """Learn the hidden tokens of texts, measured by their loss; answer a text with its [MASK]s filled, one token each.

    After `fit` records are texts to be learned, before it texts to be filled.
    """

    name: ClassVar[str] = "masklm"
    kind: ClassVar[Literal["text", "pair", "entities", "target"]] = "text"
    used_options: ClassVar[frozenset[str]] = frozenset()
    outputs: ClassVar[tuple[str, ...]] = ("fills", "logprobs")
    metric_names: ClassVar[tuple[str, ...]] = ("perplexity",)
    measured_by_loss: ClassVar[bool] = True
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss", "perplexity"})

    def __init__(self, options: Any, tokenizer: Any, *, max_length: int, stride: int | None = None) -> None:
        super().__init__(options, tokenizer, max_length=max_length, stride=stride)
        if tokenizer.mask_token_id is None:
            raise ModelError(
                f"{type(tokenizer).__name__} has no mask token",
                where="model.tokenizer",
                expected="the tokenizer of a masked language model: BERT, RoBERTa, …",
                fix="choose such a model",
            )
        self.learning = False
        special = {*tokenizer.all_special_ids}
        self._words = np.array(sorted(set(tokenizer.get_vocab().values()) - special), dtype=np.int64)
        self._special = np.array(sorted(special), dtype=np.int64)

    @property
    def best_metric(self) -> str:
        return "loss"

    @property
    def label_required(self) -> bool:
        return False

    def head(self) -> HeadSpec:
        return HeadSpec(body="masked-lm", num_labels=0)

    def fit(self, records: Sequence[Record]) -> None:
        """From now on records are texts to be learned."""
        self.learning = True

    # -- texts to batches ----------------------------------------------------------------------------------------

    def encode_many(self, records: Sequence[Record], *, start: int = 0) -> list[list[Example]]:
        """The windows of each text; a text to be filled is one, and never cut.

        Raises:
            DataError: an empty text, or one with masks that is too long.
        """
        texts = [self._text(record) for record in records]
        found = []
        for i, (record, encoded) in enumerate(zip(records, self.text_encoder(texts), strict=True)):
            if not self.learning and (encoded.tokens_lost or len(encoded.windows) > 1):
                raise DataError(
                    f"the text is beyond {self.max_length} tokens",
                    where=record.where,
                    fix="shorten it; a text to be filled is never cut",
                )
            found.append(
                [
                    Example(
                        input_ids=window.input_ids,
                        token_type_ids=window.token_type_ids,
                        record=start + i,
                        target=self.learning or None,
                        window=at,
                        tokens_lost=0 if at else encoded.tokens_lost,
                    )
                    for at, window in enumerate(encoded.windows)
                ]
            )
        return found

    def _text(self, record: Record) -> str:
        text = need_text(record, "text")
        if not text.strip():
            raise DataError("the text is empty", where=record.where, expected="a text with tokens to learn or to fill")
        return text.replace("[MASK]", self.tokenizer.mask_token)

    def targets(self, examples: Sequence[Example], length: int) -> dict[str, np.ndarray]:
        raise AssertionError("hidden tokens are drawn in collate")

    def collate(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        """Texts to be filled, with `logits_to_keep` at their masks; texts to be learned, with what is always hidden."""
        if examples[0].target:
            return self._hidden(examples, [stream(*_HELD_OUT, _hash(example)) for example in examples])
        batch = self._inputs(examples)
        return batch | {"logits_to_keep": batch["input_ids"] == self.tokenizer.mask_token_id}

    def collate_training(self, examples: Sequence[Example], *, epoch: int, seed: int) -> dict[str, np.ndarray]:
        """Texts with the tokens hidden that this epoch hides."""
        return self._hidden(examples, [stream(seed, epoch, one.record, one.window) for one in examples])

    def _inputs(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        batch = {
            "input_ids": pad([one.input_ids for one in examples], self.pad_id),
            "attention_mask": pad([[1] * len(one) for one in examples], 0),
        }
        if examples[0].token_type_ids is not None:
            batch["token_type_ids"] = pad([one.token_type_ids or [] for one in examples], 0)
        return batch

    def _hidden(self, examples: Sequence[Example], streams: Sequence[np.random.Generator]) -> dict[str, np.ndarray]:
        """The batch with `labels` [B, L], -100 where nothing is predicted, and `logits_to_keep` where something is."""
        batch = self._inputs(examples)
        labels = np.full_like(batch["input_ids"], _IGNORED)
        for row, wanted, example, rng in zip(batch["input_ids"], labels, examples, streams, strict=True):
            ids = np.asarray(example.input_ids, dtype=np.int64)
            places = np.flatnonzero(~np.isin(ids, self._special))
            chosen = rng.permutation(places)[: max(1, round(_SHARE * len(places)))]
            wanted[chosen] = ids[chosen]
            fate = rng.random(len(chosen))
            row[chosen[fate < _MASKED]] = self.tokenizer.mask_token_id
            other = chosen[(fate >= _MASKED) & (fate < _CHANGED)]
            row[other] = rng.choice(self._words, len(other))
        return batch | {"labels": labels, "logits_to_keep": labels != _IGNORED}

    # -- loss and answers ----------------------------------------------------------------------------------------

    def loss(
        self, outputs: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(summed cross entropy, number) of the hidden tokens; the logits are [N, V] of these alone."""
        from torch.nn import functional

        labels = batch["labels"][batch["logits_to_keep"]]
        total = functional.cross_entropy(outputs["logits"].float(), labels, reduction="sum")
        return total, labels.new_tensor(len(labels))

    def collect(self, outputs: Mapping[str, Any], batch: Arrays, count: int) -> dict[str, np.ndarray]:
        """fills int64 and logprobs [count, most masks of a text], the former filled up with -1."""
        import torch

        kept = np.asarray(batch["logits_to_keep"])
        logp = torch.as_tensor(outputs["logits"]).float().log_softmax(-1)
        logp[:, torch.as_tensor(self._special, device=logp.device)] = -math.inf
        best, ids = logp.max(-1)
        per_row = kept.sum(1)
        fills = np.full((count, int(per_row.max(initial=0))), -1, dtype=np.int64)
        logprobs = np.zeros(fills.shape)
        there = np.arange(fills.shape[1])[None] < per_row[:, None]
        fills[there], logprobs[there] = ids.cpu().numpy(), best.cpu().numpy()
        return {"fills": fills, "logprobs": logprobs}

    def decode(self, rows: Sequence[Arrays], examples: Sequence[Example], record: Record) -> Writing:
        """The text with the most probable token in place of each mask."""
        fills = [int(i) for i in rows[0]["fills"] if i >= 0]
        pieces = split(need_text(record, "text").replace(self.tokenizer.mask_token, "[MASK]"))
        words = [self.tokenizer.decode([number]).removeprefix("##") for number in fills]
        score = math.exp(float(np.sum(rows[0]["logprobs"])) / max(len(fills), 1))
        return Writing(join(pieces, words), tuple(word.strip() for word in words), score)

    def gold(self, record: Record) -> None:
        """The text is its own answer."""

    def metrics(self, results: Sequence[Any], golds: Sequence[Any]) -> dict[str, float]:
        """None but the loss and what follows from it."""
        return {}

    def describe(self, results: Sequence[Any], golds: Sequence[Any], records: Sequence[Record]) -> dict[str, Any]:
        return {"intervals": {}}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """There is nothing to take over."""


def _hash(example: Example) -> int:
    ids = np.ascontiguousarray(example.input_ids, dtype="<i8")
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=7).digest(), "little")
