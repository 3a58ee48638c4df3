"""The Auto classes of transformers know our GLM by its type."""

from __future__ import annotations

import pytest
import transformers

import flagai.models.glm.registration  # noqa: F401 - it registers the classes
from flagai.models.glm.configuration import GLMConfig


@pytest.mark.parametrize(
    ("auto", "kind"),
    [
        ("AutoModel", "GLMModel"),
        ("AutoModelForCausalLM", "GLMForConditionalGeneration"),
        ("AutoModelForSeq2SeqLM", "GLMForConditionalGeneration"),
        ("AutoModelForSequenceClassification", "GLMForSequenceClassification"),
        ("AutoModelForMultipleChoice", "GLMForMultipleChoice"),
        ("AutoModelForTokenClassification", "GLMForTokenClassification"),
    ],
)
def test_each_auto_class_builds_ours(auto: str, kind: str) -> None:
    config = GLMConfig(num_layers=1, hidden_size=8, num_attention_heads=2, vocab_size=16, max_sequence_length=8)
    assert type(getattr(transformers, auto).from_config(config)).__name__ == kind
