"""GLM with a classifier of every token, for spans in texts. It knows no tags and no decoder."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.utils.generic import can_return_tuple

from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.modeling import GLMModel, GLMPreTrainedModel


class GLMForTokenClassification(GLMPreTrainedModel):
    """A Linear on the hidden state of every token, the text read in both directions."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.glm = GLMModel(config)
        self.dropout = nn.Dropout(config.output_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 0)
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
    ) -> TokenClassifierOutput:
        """Logits [batch, tokens, num_labels]; inputs as for `GLMModel`.

        Args:
            labels: [batch, tokens] classes, -100 where nothing is asked.
        """
        outputs = self.glm(
            input_ids,
            attention_mask=attention_mask,
            context_length=context_length,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        return TokenClassifierOutput(
            loss=None if labels is None else F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten()),  # type: ignore[arg-type]
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
