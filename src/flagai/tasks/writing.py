"""A text with blanks → the text with its blanks filled (GLM). Knows no model; how tokens are chosen is `generate`'s.

A text without a mask is written on from its end. Writing tasks are not trained themselves: the model learns to fill
blanks by the task `blank-infilling`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np

from flagai.data.batching import pad
from flagai.data.example import Example
from flagai.data.record import Record
from flagai.errors import CheckpointError, ConfigError, DataError, FlagaiError, ModelError
from flagai.models.glm.commands import MASKS
from flagai.models.glm.inputs_checks import check_control_tokens, check_masks, check_number_of_masks
from flagai.tasks.base import Arrays, HeadSpec, Task, need_text
from flagai.tasks.masks import join, split
from flagai.tasks.results import Writing

if TYPE_CHECKING:
    import torch

    from flagai.generate.blanks import OnToken
    from flagai.generate.options import GenerationOptions

_BETWEEN_WIDE: Final = re.compile(r"(?<=[\u2e80-\uffef])\s+|\s+(?=[\u2e80-\uffef])")
_HALF: Final = re.compile(r"[\ud800-\udfff]")
NOTHING: Final = -1
"""fills up the arrays of answers"""


@dataclass(frozen=True, slots=True)
class Draft:
    """What the model reads for a record, and what of it the user sees again.

    Args:
        context: the text with masks.
        hidden: how many characters at its start the user did not write and does not want to see.
    """

    context: str
    hidden: int = 0


class WritingTask(Task):
    """Texts filled and written on.

    Attributes:
        generation: how tokens are chosen; may be set to other `GenerationOptions` at any time; saved with a model.
        on_token: called with (record, number of its blank, token id) as tokens are chosen.
    """

    name: ClassVar[str] = "lm"
    kind: ClassVar[Literal["text", "pair", "entities"]] = "text"
    used_options: ClassVar[frozenset[str]] = frozenset()
    outputs: ClassVar[tuple[str, ...]] = ("answers", "logprobs", "lengths")
    metric_names: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Any]] = {}
    """generation options of this task that differ from `GenerationOptions`' own"""

    def __init__(self, options: Any, tokenizer: Any, *, max_length: int, stride: int | None = None) -> None:
        if not hasattr(tokenizer, "commands"):
            raise ModelError(
                f"{type(tokenizer).__name__} has no tokens for blanks",
                where=f"task {options.name}",
                expected="a GLM and its tokenizer",
                fix="writing with other families comes with a later release of flagai 2",
            )
        super().__init__(options, tokenizer, max_length=max_length)
        self._generation: GenerationOptions | None = None
        self.on_token: OnToken | None = None

    @property
    def generation(self) -> GenerationOptions:
        from flagai.generate.options import GenerationOptions

        return self._generation or GenerationOptions(**self.defaults)

    @generation.setter
    def generation(self, options: GenerationOptions) -> None:
        self._generation = options

    @property
    def best_metric(self) -> str:
        return "loss"

    @property
    def label_required(self) -> bool:
        return False

    def head(self) -> HeadSpec:
        return HeadSpec(body="conditional-generation", num_labels=0)

    # -- text to tokens -----------------------------------------------------------------------------------------

    def draft(self, record: Record) -> Draft:
        """The text as it is; without a mask one is put behind it, as the original does.

        White space between the two would be read by no vocabulary; WordPiece answers want one after a Latin word.
        """
        text = the_text(record)
        if not text.strip():
            raise DataError("the text is empty", where=record.where, expected="a text to fill or to write on")
        if split(text).masks:
            return Draft(text)
        space = " " if self.tokenizer.glm_layout == "bert" and text[-1].isascii() and text[-1].isalnum() else ""
        return Draft(text + space + self.last_mask)

    @property
    def last_mask(self) -> str:
        """The mask behind which anything long may follow."""
        return MASKS[0] if self.tokenizer.commands.gmask is None else "[gMASK]"

    def encode_many(self, records: Sequence[Record], *, start: int = 0) -> list[list[Example]]:
        """One example a record; texts are never cut.

        Raises:
            DataError: an empty text, a mask that the vocabulary lacks, too many masks, control tokens in the text, or a
                text beyond the model.
        """
        seen: Counter[tuple[int, ...]] = Counter()
        examples = []
        for i, record in enumerate(records):
            ids = self._ids(record)
            # Equal texts draw different random numbers: `target` says which of them it is.
            examples.append([Example(input_ids=ids, record=start + i, target=seen[tuple(ids)])])
            seen[tuple(ids)] += 1
        return examples

    def _ids(self, record: Record) -> list[int]:
        from flagai.generate.prompts import make_prompt

        draft, commands = self.draft(record), self.tokenizer.commands
        check_masks(draft.context, commands, where=record.where)
        ids = list(self.tokenizer.encode_context(draft.context))
        prompt = make_prompt(ids, commands, where=record.where)
        check_number_of_masks(len(prompt.blanks), len(split(draft.context).masks), where=record.where)
        check_control_tokens(ids, commands, where=record.where)
        if len(ids) > self.max_length:
            raise DataError(
                f"the text has {len(ids)} tokens",
                where=record.where,
                expected=f"at most {self.max_length}, special tokens counted",
                fix="shorten it; a text to be filled is never cut",
            )
        return ids

    def collate(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        """Contexts padded on the right, the numbers of their records, and which of equal texts each is."""
        return {
            "input_ids": pad([list(example.input_ids) for example in examples], self.pad_id),
            "attention_mask": pad([[1] * len(example) for example in examples], 0),
            "record": np.array([example.record for example in examples]),
            "copy": np.array([example.target or 0 for example in examples]),
        }

    # -- tokens to more tokens ----------------------------------------------------------------------------------

    def generate(self, model: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """What stands in the blanks of each context.

        Returns:
            `answers` int64 [batch, sequences, blanks, tokens], without ends, filled up with -1; `logprobs` float64 and
            `lengths` int64 [batch, sequences, blanks]: Σ log p and number of the chosen tokens, ends counted.
        """
        from flagai.generate.blanks import fill

        rows = zip(batch["input_ids"].tolist(), batch["attention_mask"].sum(1).tolist(), strict=True)
        records = batch["record"].tolist()
        fillings = fill(
            model,
            [ids[:length] for ids, length in rows],
            commands=self.tokenizer.commands,
            options=self._complete(model),
            copies=batch["copy"].tolist(),
            on_token=self._numbered(records) if self.on_token is not None else None,
        )
        return _arrays(fillings)

    def _complete(self, model: Any) -> GenerationOptions:
        """The options, with the tokens suppressed that stand for no text."""
        import dataclasses

        tokenizer, options = self.tokenizer, self.generation
        size = int(getattr(getattr(model, "config", None), "vocab_size", None) or len(tokenizer))
        commands = tokenizer.commands
        textless = {commands.unk, tokenizer.unk_token_id, commands.sep} - {None, commands.eos, commands.eop}
        beyond = range(len(tokenizer), size)  # rows that round the embedding up
        suppressed = sorted({*options.suppress_tokens, *textless, *beyond})
        return dataclasses.replace(options, suppress_tokens=tuple(suppressed))

    def _numbered(self, records: Sequence[int]) -> OnToken:
        told = self.on_token
        assert told is not None
        return lambda row, blank, token: told(records[row], blank, token)

    # -- tokens to text -----------------------------------------------------------------------------------------

    def decode(self, rows: Sequence[Arrays], examples: Sequence[Example], record: Record) -> Any:
        """A `Writing`, or a tuple of them where several sequences were asked for."""
        row, draft = rows[0], self.draft(record)
        found = tuple(
            self._writing(draft, answers, logprobs, lengths)
            for answers, logprobs, lengths in zip(row["answers"], row["logprobs"], row["lengths"], strict=True)
        )
        return found if self.generation.num_return_sequences > 1 else found[0]

    def _writing(self, draft: Draft, answers: np.ndarray, logprobs: np.ndarray, lengths: np.ndarray) -> Writing:
        pieces = split(draft.context)
        texts = [self.text_of([int(i) for i in one if i != NOTHING]) for one in answers[: len(pieces.masks)]]
        score = math.exp(float(logprobs.sum()) / max(int(lengths.sum()), 1))
        return Writing(join(pieces, texts)[draft.hidden :], tuple(text.strip() for text in texts), score)

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of an answer; white space at its start says that it is a new word."""
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        # WordPiece puts a space between any two tokens, Chinese characters too.
        return _BETWEEN_WIDE.sub("", text) if self.tokenizer.glm_layout == "bert" else text

    # -- what a run would ask ----------------------------------------------------------------------------------

    def fit(self, records: Sequence[Record]) -> None:
        raise self._not_yet("trained", "task: blank-infilling trains the model that writes")

    def targets(self, examples: Sequence[Example], length: int) -> dict[str, np.ndarray]:
        raise self._not_yet("trained")

    def loss(self, outputs: Any, batch: Any) -> tuple[Any, Any]:
        raise self._not_yet("trained")

    def gold(self, record: Record) -> Any:
        raise self._not_yet("measured", "measure the model with the task blank-infilling")

    def metrics(self, results: Sequence[Any], golds: Sequence[Any]) -> dict[str, float]:
        return {}

    def describe(self, results: Sequence[Any], golds: Sequence[Any], records: Sequence[Record]) -> dict[str, Any]:
        return {"intervals": {}}

    def _not_yet(self, verb: str, fix: str = "") -> FlagaiError:
        return ConfigError(f"the task {self.options.name!r} is not {verb} in this version", where="task.name", fix=fix)

    def state(self) -> dict[str, Any]:
        """How tokens are chosen, where that was changed."""
        return {} if self._generation is None else {"generation": asdict(self._generation)}

    def restore(self, state: Mapping[str, Any]) -> None:
        from flagai.generate.options import make_options

        if "generation" in state:
            try:
                self._generation = make_options(state["generation"])
            except ConfigError as error:
                raise CheckpointError(f"the saved options of generation are damaged: {error.found}") from error


def the_text(record: Record) -> str:
    """The one text of a record. Raises DataError for none, for a pair, or for half a character in it."""
    if record.get("text_pair") is not None:
        raise DataError("there are two texts", where=record.where, expected="one text to fill or to write on")
    text = need_text(record, "text")
    if (half := _HALF.search(text)) is not None:
        raise DataError(
            f"the text holds half of a surrogate pair, {half[0]!a}, at character {half.start()}",
            where=record.where,
            expected="whole Unicode characters",
            fix="read or cut the text again as whole characters",
        )
    return text


def _arrays(fillings: Sequence[Sequence[Sequence[Any]]]) -> dict[str, np.ndarray]:
    blanks = max(len(filling) for one in fillings for filling in one)
    tokens = max(len(answer.tokens) for one in fillings for filling in one for answer in filling)
    shape = (len(fillings), max(map(len, fillings)), blanks)
    answers, logprobs, lengths = np.full((*shape, tokens), NOTHING), np.zeros(shape), np.zeros(shape, dtype=np.int64)
    for place, answer in _each(fillings):
        answers[(*place, slice(len(answer.tokens)))] = answer.tokens
        logprobs[place] = answer.logprob
        lengths[place] = len(answer.tokens) + answer.ended
    return {"answers": answers, "logprobs": logprobs, "lengths": lengths}


def _each(fillings: Sequence[Sequence[Sequence[Any]]]) -> list[tuple[tuple[int, int, int], Any]]:
    return [
        ((i, j, k), answer)
        for i, one in enumerate(fillings)
        for j, filling in enumerate(one)
        for k, answer in enumerate(filling)
    ]
