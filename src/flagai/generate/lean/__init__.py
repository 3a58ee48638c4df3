"""A fast way to write with well-known models: their tensors in a lean loop. Knows no search and no text."""

from flagai.generate.lean.products import forget
from flagai.generate.lean.support import supports
from flagai.generate.lean.writer import LeanWriter

__all__ = ["LeanWriter", "forget", "supports"]
