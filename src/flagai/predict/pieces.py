"""Tokens as they are chosen → pieces of text, and what became of every token. Knows no model and no search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flagai.data.record import Record
from flagai.tasks.writing import WritingTask

if TYPE_CHECKING:
    from flagai.generate.requests import Answer, Filling
    from flagai.tasks.generation import GenerationTask

Stream = Callable[[int, int, str], None]
"""called with (number of the text, number of the blank in it, what is new of its answer) while answers grow"""

_UNFINISHED = "\ufffd"
"""what a character of several tokens is until its last token is there"""


class Pieces:
    """Tells the text of answers while it grows: whole characters, and never a part of a stop string.

    What is told of an answer, put together, is the answer; `finish` tells what was held back.
    """

    def __init__(self, task: GenerationTask, records: Sequence[Record], stream: Stream) -> None:
        self._task, self._records, self._stream = task, records, stream
        self._tokens: dict[tuple[int, int], list[int]] = {}
        self._told: dict[tuple[int, int], str] = {}

    def __call__(self, record: int, blank: int, token: int) -> None:
        """A token was chosen."""
        key = (record, blank)
        self._tokens.setdefault(key, []).append(token)
        text = self._text(key)
        cut = self._task.cut(text)
        self._tell(key, cut if cut != text else text[: len(text) - self._held(text)])

    def finish(self) -> None:
        """Every answer is complete."""
        for key in self._tokens:
            self._tell(key, self._task.cut(self._text(key)), last=True)

    def _text(self, key: tuple[int, int]) -> str:
        tokens, task = self._tokens[key], self._task
        if isinstance(task, WritingTask) and task.family == "decoder":
            return task.going_on(task.draft(self._records[key[0]]).context, tokens)
        return task.text_of(tokens)

    def _held(self, text: str) -> int:
        """Characters at the end of a text with which a stop string may begin."""
        longest = 0
        for stop in self._task.generation.stop:
            longest = max(longest, *(n for n in range(len(stop)) if text.endswith(stop[:n])))
        return longest

    def _tell(self, key: tuple[int, int], text: str, *, last: bool = False) -> None:
        told = self._told.get(key, "")
        whole = last or not text.endswith(_UNFINISHED)
        if whole and len(text) > len(told) and text.startswith(told):
            self._told[key] = text
            self._stream(*key, text[len(told) :])


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer: its text and its log probability under the model's own distribution."""

    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Trace:
    """How an answer came about.

    Args:
        tokens: with the token that ended it, if one did; that one's text is "".
        finish: "end", "length" (`max_new_tokens`) or "stop" (a stop string).
    """

    tokens: tuple[Token, ...]
    finish: str

    @property
    def logprob(self) -> float:
        """Of the whole answer: Σ log p."""
        return sum(token.logprob for token in self.tokens)


@dataclass(frozen=True, slots=True)
class Traced:
    """A result with a trace for each of its blanks; one for a text that was written on or answered."""

    result: Any
    blanks: tuple[Trace, ...]


class Recorder:
    """Stands in front of a task's `write` and keeps what came back, by number of the record."""

    def __init__(self, task: GenerationTask) -> None:
        self._task, self._write = task, task.write
        self.fillings: dict[int, list[Filling]] = {}

    def __call__(self, model: Any, prompts: Sequence[Any], **options: Any) -> list[list[Filling]]:
        """See `Decoding.write`."""
        found = self._write(model, prompts, **options)
        self.fillings.update(zip(options["records"], found, strict=True))
        return found

    def traced(self, number: int, result: Any) -> Any:
        """The result of a record with its traces; a tuple of them where there are several results."""
        fillings = self.fillings[number]
        if isinstance(result, tuple):
            pairs = zip(result, fillings, strict=True)
            return tuple(Traced(one, tuple(map(self._trace, filling))) for one, filling in pairs)
        return Traced(result, tuple(map(self._trace, fillings[0])))

    def _trace(self, answer: Answer) -> Trace:
        texts = [self._task.text_of([token]) for token in answer.tokens]
        texts += [""] * (len(answer.logprobs) - len(texts))
        return Trace(tuple(map(Token, texts, answer.logprobs)), answer.finish)
