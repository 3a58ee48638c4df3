"""Two texts, read together by one encoder → whether they match, or how alike they are. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flagai.data.example import Example
from flagai.data.record import Record
from flagai.tasks.base import Arrays, HeadSpec, need_text
from flagai.tasks.classification import Classification
from flagai.tasks.results import Similarity
from flagai.tasks.scores import ScoreTask

if TYPE_CHECKING:
    import torch


class PairClassification(Classification):
    """Classification in which every record has two texts."""

    name: ClassVar[str] = "semantic-matching"
    kind: ClassVar[Literal["text", "pair", "entities"]] = "pair"


class PairRegression(ScoreTask):
    """A number for two texts: one logit, trained by squared error on scores scaled to [0, 1]."""

    name: ClassVar[str] = "semantic-matching"
    kind: ClassVar[Literal["text", "pair", "entities"]] = "pair"
    used_options: ClassVar[frozenset[str]] = frozenset({"regression", "score_range", "dropout"})

    def head(self) -> HeadSpec:
        return HeadSpec(body="sequence-classification", num_labels=1, dropout=self.options.dropout)

    def encode_many(self, records: Sequence[Record], *, start: int = 0) -> list[list[Example]]:
        texts = [need_text(record, "text") for record in records]
        pairs = [need_text(record, "text_pair") for record in records]
        encoded = self.text_encoder(texts, pairs)
        examples = [
            Example(
                input_ids=item.windows[0].input_ids,
                token_type_ids=item.windows[0].token_type_ids,
                record=start + i,
                target=self._scores.target(record),
                tokens_lost=item.tokens_lost,
            )
            for i, (record, item) in enumerate(zip(records, encoded, strict=True))
        ]
        return [[example] for example in examples]

    def loss(
        self, outputs: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error of the logit; the count is the number of pairs."""
        labels = batch["labels"]
        error = outputs["logits"].float().squeeze(-1) - labels
        return error.square().sum(), labels.new_tensor(len(labels))

    def decode(self, rows: Sequence[Arrays], examples: Sequence[Example], record: Record) -> Similarity:
        """From logits [1]: the score, on the scale of the labels."""
        return Similarity(self._scores.unscale(float(rows[0]["logits"][0])))

    def metrics(self, results: Sequence[Any], golds: Sequence[Any]) -> dict[str, float]:
        return self._scores.metrics([result.score for result in results], golds)

    def describe(self, results: Sequence[Any], golds: Sequence[Any], records: Sequence[Record]) -> dict[str, Any]:
        return self._scores.describe([result.score for result in results], golds, records)
