"""The original's `flagai.model.glm_model`. It holds nothing itself."""

from flagai._compat._adapters.glm import (
    GLMForMultiTokenCloze,
    GLMForSeq2Seq,
    GLMForSequenceClassification,
    GLMForSingleTokenCloze,
    GLMModel,
)
from flagai._compat._adapters.later import PROMPTS, later

__all__ = [
    "GLMForMultiTokenCloze",
    "GLMForSeq2Seq",
    "GLMForSequenceClassification",
    "GLMForSingleTokenCloze",
    "GLMModel",
]
__getattr__ = later(__name__, ["GLMForMultiTokenClozeFast"], PROMPTS)
