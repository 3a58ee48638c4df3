"""Makes the Auto classes of transformers know our GLM under its own type. Importing it is all there is to do.

The type "glm" is not touched: transformers has GLM-4 under that name.
"""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultipleChoice,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.heads import GLMForMultipleChoice, GLMForSequenceClassification
from flagai.models.glm.labeling import GLMForTokenClassification
from flagai.models.glm.modeling import GLMForConditionalGeneration, GLMModel
from flagai.models.glm.tokenization import GLMTokenizer

AutoConfig.register(GLMConfig.model_type, GLMConfig)
AutoModel.register(GLMConfig, GLMModel)
# The published folders name the first; the second is where tools for generation look.
AutoModelForSeq2SeqLM.register(GLMConfig, GLMForConditionalGeneration)
AutoModelForCausalLM.register(GLMConfig, GLMForConditionalGeneration)
AutoModelForSequenceClassification.register(GLMConfig, GLMForSequenceClassification)
AutoModelForMultipleChoice.register(GLMConfig, GLMForMultipleChoice)
AutoModelForTokenClassification.register(GLMConfig, GLMForTokenClassification)
AutoTokenizer.register(GLMConfig, fast_tokenizer_class=GLMTokenizer)
