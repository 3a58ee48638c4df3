"""What tasks that write share: options of decoding, the call of the engine, answers as arrays. Knows no record."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from flagai.errors import CheckpointError, ConfigError
from flagai.tasks.base import Arrays

if TYPE_CHECKING:
    from flagai.generate.options import GenerationOptions
    from flagai.generate.requests import Answer, Filling
    from flagai.generate.writers.base import Prompt, Writer

OnToken = Callable[[int, int, int], None]
"""called with (number of the record, number of the blank in it, token id) as soon as a token is chosen"""
NOTHING: Final = -1
"""fills up the arrays of answers"""
_BETWEEN_WIDE: Final = re.compile(r"(?<=[\u2e80-\uffef])\s+|\s+(?=[\u2e80-\uffef])")


class Decoding:
    """The part of a task that writes which is the same for all of them; stands in front of `Task` among the bases.

    Attributes:
        generation: how tokens are chosen; may be set to other `GenerationOptions` at any time; saved with a model.
        on_token: see `OnToken`.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    """generation options of this task that differ from `GenerationOptions`' own"""
    tokenizer: Any
    _generation: GenerationOptions | None = None
    on_token: OnToken | None = None

    @property
    def generation(self) -> GenerationOptions:
        from flagai.generate.options import GenerationOptions

        return self._generation or GenerationOptions(**self.defaults)

    @generation.setter
    def generation(self, options: GenerationOptions) -> None:
        self._generation = options

    def longest_answer(self) -> int | None:
        """Most tokens of an answer where neither options nor a user say it; None: as the options' own default."""
        return None

    def write(
        self, model: Any, prompts: Sequence[Prompt], *, copies: Sequence[int], records: Sequence[int]
    ) -> list[list[Filling]]:
        """The fillings of each prompt, see `flagai.generate.generate.write`.

        Args:
            copies: for each prompt its number among equal ones.
            records: for each prompt the number of its record, for `on_token`.
        """

        from flagai.generate.generate import write

        told = self.on_token
        on_token = None if told is None else (lambda row, blank, token: told(records[row], blank, token))
        return write(
            self._writer(model),
            prompts,
            self._settled(),
            tokenizer=self.tokenizer,
            copies=copies,
            on_token=on_token,
        )

    def check_model(self, model: Any) -> None:
        """Refuse a model that cannot write. Raises ModelError."""
        self._writer(model)

    def _writer(self, model: Any) -> Writer:
        from flagai.generate.writers.make import make_writer
        from flagai.models.families import end_ids_of

        return make_writer(model, tokenizer=self.tokenizer, end_ids=end_ids_of(self.tokenizer))

    def _settled(self) -> GenerationOptions:
        """The options, with tokens suppressed that stand for no text."""
        options = self.generation
        suppressed = tuple(sorted({*options.suppress_tokens, *self.textless_ids()}))
        longest = options.max_new_tokens or self.longest_answer()
        if longest is not None and options.min_new_tokens > longest:
            longest = options.min_new_tokens
        return dataclasses.replace(options, suppress_tokens=suppressed, max_new_tokens=longest)

    def textless_ids(self) -> set[int]:
        """Special tokens that no answer has, the unknown among them; what a tokenizer frames a text with may come."""
        from flagai.models.families import end_ids_of

        framing = self.tokenizer("a", verbose=False)["input_ids"][:1]
        return set(self.tokenizer.all_special_ids) - set(end_ids_of(self.tokenizer)) - set(framing)

    @cached_property
    def _joins_wide(self) -> bool:
        """Whether decoding puts a space between any two tokens, Chinese characters too (WordPiece)."""
        decoder = type(self.tokenizer.backend_tokenizer.decoder).__name__
        return decoder == "WordPiece" or getattr(self.tokenizer, "glm_layout", "") == "bert"

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of an answer; white space at its start says that it is a new word."""
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return _BETWEEN_WIDE.sub("", text) if self._joins_wide else text

    def cut(self, text: str) -> str:
        """An answer without the stop string that ended it, and without what came in the same token."""
        ends = [at for stop in self.generation.stop if (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text

    def state(self) -> dict[str, Any]:
        """How tokens are chosen, where that was changed."""
        return {} if self._generation is None else {"generation": options_to_json(self._generation)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave. Raises CheckpointError for options that cannot be meant."""
        from flagai.generate.options import make_options

        if "generation" in state:
            try:
                self._generation = make_options(state["generation"])
            except ConfigError as error:
                raise CheckpointError(f"the saved options of generation are damaged: {error.found}") from error


def options_to_json(options: GenerationOptions) -> dict[str, Any]:
    """The options that differ from the defaults, as `make_options` reads them."""
    plain = type(options)()
    changed = {one.name: getattr(options, one.name) for one in dataclasses.fields(options)}
    found = {name: value for name, value in changed.items() if value != getattr(plain, name)}
    if options.constraints:
        from flagai.generate.constraints.parse import to_plain

        found["constraints"] = to_plain(options.constraints)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def answer_arrays(rows: Sequence[Sequence[Answer]]) -> dict[str, np.ndarray]:
    """Answers [batch][sequences] → `answers` int64 [batch, sequences, tokens] filled up with -1, `logprobs` float64 and
    `lengths` int64 [batch, sequences] (ends counted)."""
    tokens = max((len(answer.tokens) for one in rows for answer in one), default=0)
    shape = (len(rows), max(map(len, rows), default=0))
    answers = np.full((*shape, tokens), NOTHING, dtype=np.int64)
    logprobs, lengths = np.zeros(shape), np.zeros(shape, dtype=np.int64)
    for i, one in enumerate(rows):
        for j, answer in enumerate(one):
            answers[i, j, : len(answer.tokens)] = answer.tokens
            logprobs[i, j], lengths[i, j] = answer.logprob, len(answer.tokens) + answer.ended
    return {"answers": answers, "logprobs": logprobs, "lengths": lengths}


def filling_arrays(rows: Sequence[Sequence[Filling]]) -> dict[str, np.ndarray]:
    """The same with an axis of blanks in front of that of tokens."""
    blanks = max((len(filling) for one in rows for filling in one), default=0)
    flat = [[answer for filling in one for answer in _padded(filling, blanks)] for one in rows]
    arrays = answer_arrays(flat)
    sequences = max(map(len, rows), default=0)
    return {name: array.reshape(len(rows), sequences, blanks, *array.shape[2:]) for name, array in arrays.items()}


def _padded(filling: Filling, blanks: int) -> list[Answer]:
    from flagai.generate.requests import Answer

    return [*filling, *[Answer((), 0.0, 0.0, ended=False)] * (blanks - len(filling))]


def answers_in(row: Arrays) -> Iterator[tuple[list[int], float]]:
    """(tokens, geometric mean of their probabilities) of each sequence of one example's `answer_arrays`."""
    for ids, logprob, length in zip(row["answers"], row["logprobs"], row["lengths"], strict=True):
        yield [int(i) for i in ids if i != NOTHING], math.exp(float(logprob) / max(int(length), 1))
