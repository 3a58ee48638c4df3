"""A text and an answer in it → the question that it answers. Knows no reading comprehension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from flagai.tasks.generation import GenerationTask


class QuestionTask(GenerationTask):
    """A record has a text (`context`), a column `answer`, and the question as what is to be written.

    The answer stands in front of the text, so that it is never cut; another `task.template` may do without it.
    """

    name: ClassVar[str] = "question-generation"
    templates: ClassVar[Mapping[str, str]] = {
        "": "{answer} | {source}",
        "glm": "{answer} | {source}[gMASK]",
        "decoder": "{answer} | {source}\n",
    }
