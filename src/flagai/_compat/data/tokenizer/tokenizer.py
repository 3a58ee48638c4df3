"""The original's `flagai.data.tokenizer.tokenizer`: what its GLM tokenizers share. It holds nothing itself."""

from flagai.models.glm.commands import CommandToken
from flagai.models.glm.tokenization import GLMTokenizer
from flagai.models.glm.tokenization_original import TypeToken

__all__ = ["CommandToken", "GLMTokenizer", "TypeToken"]
