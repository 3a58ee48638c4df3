"""A text → a vector, trained so that the cosine of two vectors tells how alike their texts are. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from flagai.data.batching import pad
from flagai.data.example import Example
from flagai.data.record import Record
from flagai.tasks.base import Arrays, HeadSpec, need_text
from flagai.tasks.encoding import Encoded
from flagai.tasks.results import Embedding, Similarity
from flagai.tasks.scores import ScoreTask

if TYPE_CHECKING:
    import torch

_COSENT_SCALE = 20.0


class EmbeddingTask(ScoreTask):
    """Text vectors by pooling, normalised unless told otherwise.

    Trained on pairs with a score by one of two losses:
    `cosine` is the squared error of the cosine (score scaled to [0, 1]); `cosent` (Su 2022) asks only that pairs with
    a higher score have the higher cosine. The latter compares pairs of one batch: it changes with accumulation.
    A record with `text_pair` is answered by a Similarity, one without by an Embedding.
    """

    name: ClassVar[str] = "embedding"
    kind: ClassVar[Literal["text", "pair", "entities"]] = "pair"
    used_options: ClassVar[frozenset[str]] = frozenset({"pooling", "normalize", "loss", "scale", "score_range"})
    outputs: ClassVar[tuple[str, ...]] = ("embedding",)

    def __init__(self, options: Any, tokenizer: Any, *, max_length: int, stride: int | None = None) -> None:
        super().__init__(options, tokenizer, max_length=max_length, stride=None)

    @property
    def pair_loss(self) -> bool:  # type: ignore[override]
        return self.options.loss == "cosent"

    def head(self) -> HeadSpec:
        normalize = True if self.options.normalize is None else self.options.normalize
        options = {"pooling": self.options.pooling or "mean", "normalize": normalize}
        return HeadSpec(body="encoder", num_labels=0, module="flagai.models.heads:Pooled", options=options)

    def encode_many(self, records: Sequence[Record], *, start: int = 0) -> list[list[Example]]:
        first = self.text_encoder([need_text(record, "text") for record in records])
        paired = [record for record in records if record.get("text_pair") is not None]
        second = iter(self.text_encoder([need_text(record, "text_pair") for record in paired]))
        return [
            [self._example(record, item, next(second) if record.get("text_pair") is not None else None, start + i)]
            for i, (record, item) in enumerate(zip(records, first, strict=True))
        ]

    def _example(self, record: Record, first: Encoded, second: Encoded | None, index: int) -> Example:
        window = first.windows[0]
        return Example(
            input_ids=window.input_ids,
            token_type_ids=window.token_type_ids,
            second_ids=second.windows[0].input_ids if second else None,
            record=index,
            target=self._scores.target(record) if second else None,
            tokens_lost=first.tokens_lost + (second.tokens_lost if second else 0),
        )

    def collate(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        """All first texts, then, if any example has one, all second texts (its own again where there is none)."""
        if all(example.second_ids is None for example in examples):
            return super().collate(examples)
        rows = [e.input_ids for e in examples] + [e.second_ids or e.input_ids for e in examples]
        batch = {"input_ids": pad(rows, self.pad_id), "attention_mask": pad([[1] * len(row) for row in rows], 0)}
        if examples[0].token_type_ids is not None:
            batch["token_type_ids"] = np.zeros_like(batch["input_ids"])
        if all(example.target is not None for example in examples):
            batch |= self.targets(examples, 0)
        return batch

    def loss(
        self, outputs: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of squared errors over the pairs; or for `cosent` one value a batch, with the count 1."""
        import torch
        from torch.nn import functional

        first, second = outputs["embedding"].float().chunk(2)
        cosines, labels = functional.cosine_similarity(first, second), batch["labels"]
        if self.options.loss != "cosent":
            return (cosines - labels).square().sum(), labels.new_tensor(len(labels))
        scaled = cosines * (self.options.scale or _COSENT_SCALE)
        differences = scaled[:, None] - scaled[None, :]  # [i, j]: how much higher i is than j
        wrong_way = labels[:, None] < labels[None, :]
        terms = differences.masked_fill(~wrong_way, -torch.inf).flatten()
        value = torch.logsumexp(functional.pad(terms, (0, 1)), dim=0)  # the padded 0 is the 1 in log(1 + …)
        return value, labels.new_tensor(1.0)

    def decode(self, rows: Sequence[Arrays], examples: Sequence[Example], record: Record) -> Embedding | Similarity:
        """From embedding [H], or [2, H] in a batch with pairs: the (first) vector, or for a pair the cosine of both."""
        vectors = rows[0]["embedding"]
        if record.get("text_pair") is None:
            first = vectors[0] if vectors.ndim == 2 else vectors
            return Embedding(tuple(first.tolist()))
        first, second = vectors.astype(np.float64)
        norm = float(np.linalg.norm(first) * np.linalg.norm(second))
        return Similarity(float(first @ second) / norm if norm else 0.0)

    def metrics(self, results: Sequence[Any], golds: Sequence[Any]) -> dict[str, float]:
        return self._scores.metrics([self._scores.unscale(result.score) for result in results], golds)

    def describe(self, results: Sequence[Any], golds: Sequence[Any], records: Sequence[Record]) -> dict[str, Any]:
        return self._scores.describe([self._scores.unscale(result.score) for result in results], golds, records)
