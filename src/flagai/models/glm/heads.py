"""GLM with a classifier, and GLM that chooses among candidates by how likely each fills the blank.

It knows no label names and no metric.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import MultipleChoiceModelOutput, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from flagai.errors import DataError
from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.modeling import GLMForConditionalGeneration, GLMModel, GLMPreTrainedModel


class GLMForSequenceClassification(GLMPreTrainedModel):
    """tanh(dense) of one token, then a Linear; which token is the configuration's `pool_token`."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.glm = GLMModel(config)
        self.dropout = nn.Dropout(config.output_dropout_prob)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels or 0)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        context_length: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits [batch, num_labels]; without `context_length` the whole text is read in both directions.

        Args:
            labels: [batch] classes, or [batch, num_labels] of 0 and 1 where several may hold.

        Raises:
            DataError: `pool_token` is "start" or "pad", and there is no `context_length` to find that token by.
        """
        outputs = self.glm(
            input_ids,
            attention_mask=attention_mask,
            context_length=context_length,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        pooled = self._pool(outputs.last_hidden_state, attention_mask, context_length)
        pooled = self.dropout(torch.tanh(self.dense(self.dropout(pooled))))
        logits = self.out_proj(pooled)
        return SequenceClassifierOutput(
            loss=None if labels is None else _class_loss(logits, labels),  # type: ignore[arg-type]
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _pool(self, hidden: Tensor, attention_mask: Tensor | None, context_length: Tensor | None) -> Tensor:
        rows = torch.arange(len(hidden), device=hidden.device)
        if self.config.pool_token == "cls":
            left = attention_mask is not None and attention_mask.dim() == 2
            # The first real token: the first column but for rows that are padded on the left.
            return hidden[rows, attention_mask.ne(0).int().argmax(1)] if left else hidden[:, 0]  # type: ignore[union-attr]
        if context_length is None and attention_mask is not None and attention_mask.dim() < 2:
            context_length = attention_mask.reshape(-1).expand(len(hidden))
        if context_length is None:
            raise DataError(f"pool_token {self.config.pool_token!r} needs context_length", expected="[batch]")
        last = self.config.pool_token == "pad"
        if hidden.device.type == "cpu" and int(context_length.max()) >= hidden.shape[1] + last:
            raise DataError(
                "no token stands behind the context", expected="<|startofpiece|> there, for pool_token 'start'"
            )
        return hidden[rows, context_length - int(last)]


def _class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.dim() == 2:
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float())
    return F.cross_entropy(logits.float(), labels)


class GLMForMultipleChoice(GLMForConditionalGeneration):
    """Candidates scored as answers to one blank, packed after one context: the context is computed once.

    The score of a candidate is the sum of the log-probabilities of its tokens (Du et al. 2022, section 3.2).
    """

    @can_return_tuple
    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        choice_ids: Any = None,
        choice_indices: Any = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> MultipleChoiceModelOutput:
        """Scores [batch, candidates], -inf where a row has fewer candidates than another.

        Args:
            input_ids: [batch, tokens], context and candidates as `build_inputs_for_multiple_choice` packs them.
            attention_mask: [batch, 1, tokens, tokens], each candidate sees the context and itself.
            choice_ids: for each row its candidates' token ids, each a 1-D tensor.
            choice_indices: for each row, where the logits of those tokens stand.
            labels: [batch] index of the right candidate.

        Raises:
            DataError: rows without candidates, or a candidate whose ids and places differ in number.
        """
        if choice_ids is None or choice_indices is None:
            raise DataError("there are no candidates", expected="choice_ids and choice_indices")
        outputs = super().forward(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, return_dict=True, **kwargs
        )
        assert outputs.logits is not None
        scores = choice_scores(outputs.logits, choice_ids, choice_indices)
        return MultipleChoiceModelOutput(
            loss=None if labels is None else F.cross_entropy(scores, labels),  # type: ignore[arg-type]
            logits=scores,  # type: ignore[arg-type]
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def choice_scores(logits: Tensor, choice_ids: Any, choice_indices: Any) -> Tensor:
    """Σ log p(token) of each candidate: [batch, most candidates], -inf where there is none.

    Args:
        logits: [batch, tokens, vocabulary].
        choice_ids, choice_indices: see `GLMForMultipleChoice.forward`.
    """
    most = max((len(row) for row in choice_ids), default=0)
    if not most or not len(choice_ids) == len(choice_indices) == len(logits):
        raise DataError(f"candidates for {len(choice_ids)} rows of {len(logits)}", expected="at least one for each row")
    rows = []
    for row, (ids, places) in enumerate(zip(choice_ids, choice_indices, strict=True)):
        if [len(part) for part in ids] != [len(part) for part in places]:
            raise DataError("a candidate has more tokens than places", where=f"row {row}")
        device = logits.device
        where = torch.cat([torch.as_tensor(part, device=device) for part in places])
        token = torch.cat([torch.as_tensor(part, device=device) for part in ids])
        _check_inside(where, logits.shape[1], "place", row)
        _check_inside(token, logits.shape[2], "token id", row)
        # Only the candidates' own places go through the softmax of the vocabulary.
        logp = logits[row, where].float().log_softmax(-1).gather(1, token[:, None])[:, 0]
        sums = torch.stack([part.sum() for part in logp.split([len(part) for part in ids])])
        rows.append(F.pad(sums, (0, most - len(sums)), value=float("-inf")))
    return torch.stack(rows)


def _check_inside(values: Tensor, size: int, what: str, row: int) -> None:
    if values.device.type == "cpu" and values.numel() and not 0 <= int(values.min()) <= int(values.max()) < size:
        raise DataError(f"a {what} is outside", expected=f"0 to {size - 1}", where=f"candidates of row {row}")
