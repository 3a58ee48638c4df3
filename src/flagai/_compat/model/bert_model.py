"""The original's `flagai.model.bert_model`. It holds nothing itself."""

from flagai._compat._adapters.bert import (
    BertForClsClassifier,
    BertForEmbedding,
    BertForMaskLM,
    BertForSequenceLabeling,
    BertForSequenceLabelingCRF,
    BertForSequenceLabelingGP,
    BertModel,
)
from flagai._compat._adapters.later import GENERATION, later

__all__ = [
    "BertForClsClassifier",
    "BertForEmbedding",
    "BertForMaskLM",
    "BertForSequenceLabeling",
    "BertForSequenceLabelingCRF",
    "BertForSequenceLabelingGP",
    "BertModel",
]
__getattr__ = later(__name__, ["BertForSeq2seq"], GENERATION)
