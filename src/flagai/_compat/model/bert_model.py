"""The original's `flagai.model.bert_model`. It holds nothing itself."""

from flagai._compat._adapters.bert import (
    BertForClsClassifier,
    BertForEmbedding,
    BertForMaskLM,
    BertForSeq2seq,
    BertForSequenceLabeling,
    BertForSequenceLabelingCRF,
    BertForSequenceLabelingGP,
    BertModel,
)

__all__ = [
    "BertForClsClassifier",
    "BertForEmbedding",
    "BertForMaskLM",
    "BertForSeq2seq",
    "BertForSequenceLabeling",
    "BertForSequenceLabelingCRF",
    "BertForSequenceLabelingGP",
    "BertModel",
]
