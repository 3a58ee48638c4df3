"""A text → the same with its masks filled, or written on: the task `lm`, by any model that writes.

What it learns are whole texts (a `prompt` in front of one is read and not learned), and it is measured by their loss.
It knows no model; how tokens are chosen is `generate`'s, how a GLM and a T5 fill masks is `blanks`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np

from flagai.data.example import Example
from flagai.data.record import Record
from flagai.errors import DataError
from flagai.tasks.arrangements import facts_of
from flagai.tasks.base import Arrays, need_text
from flagai.tasks.blanks import Draft, GLMBlanks, SentinelBlanks
from flagai.tasks.decoding import NOTHING, answers_in, filling_arrays
from flagai.tasks.generation import Aim, GenerationTask
from flagai.tasks.results import Writing

if TYPE_CHECKING:
    import torch

__all__ = ["NOTHING", "Draft", "WritingTask", "the_text"]

_HALF: Final = re.compile(r"[\ud800-\udfff]")


class WritingTask(GenerationTask):
    """Texts filled and written on.

    A GLM fills masks ([MASK], [sMASK], [gMASK]) in order, a T5 all at once; a text without a mask is written on from
    its end. Other encoder-decoders answer a text, decoders write it on, whatever masks are in it.
    """

    name: ClassVar[str] = "lm"
    kind: ClassVar[Literal["text", "pair", "entities", "target"]] = "text"
    used_options: ClassVar[frozenset[str]] = frozenset({"label_smoothing"})
    measured_by_loss: ClassVar[bool] = True
    separates: ClassVar[bool] = False
    templates: ClassVar[Mapping[str, str]] = {"decoder": "{source}"}
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss", "perplexity"})

    def __init__(self, options: Any, tokenizer: Any, *, max_length: int, stride: int | None = None) -> None:
        super().__init__(options, tokenizer, max_length=max_length, stride=stride)
        self.learning = False
        """whether records are texts to be learned (after `fit`), not texts to be written on"""
        if self.family == "glm":  # a GLM's tokenizer says all that filling blanks needs
            self.facts = facts_of("glm", None, tokenizer, None)
            self.pad_id = self.facts.pad

    def _take_stride(self, stride: int | None) -> None:
        """Long texts are learned in windows, of which the last tokens of one are read in front of the next."""
        self.stride = stride

    @property
    def metric_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("perplexity",)

    @property
    def label_required(self) -> bool:
        return False

    @property
    def blanks(self) -> GLMBlanks | SentinelBlanks | None:
        """How masks are filled, None where the family knows no masks."""
        if self.family == "glm":
            return GLMBlanks(self.tokenizer)
        return SentinelBlanks(self.tokenizer) if self.family == "encoder-decoder" else None

    # -- learning ------------------------------------------------------------------------------------------------

    def fit(self, records: Sequence[Record]) -> None:
        """From now on records are texts to be learned."""
        self.learning = True

    def lesson(self, record: Record) -> tuple[str, str]:
        """What is read and what is learned of a record. Raises DataError for an empty text."""
        text = need_text(record, "text")
        if not text.strip():
            raise DataError("the text is empty", where=record.where, expected="a text to learn")
        return ("" if record.get("prompt") is None else need_text(record, "prompt")), text

    def _lessons(self, records: Sequence[Record], start: int) -> list[list[Example]]:
        lessons = [self.lesson(record) for record in records]
        prompts = self._framer.texts([prompt for prompt, _ in lessons])
        texts = self._framer.texts([text for _, text in lessons])
        return [
            list(self._windows(prompt, text, start + i))
            for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
        ]

    def _windows(self, prompt: list[int], text: list[int], index: int) -> Iterator[Example]:
        """(prompt → text) where both fit, else windows that go on from the last `stride` tokens of those before."""
        facts = self._known()[1]
        row, at, window = [*prompt, *text, facts.end], len(prompt), 0
        context = prompt
        while at < len(row):
            source = self._framer.frame(context) or [facts.end]  # GPT-2 reads its end of text before a new one
            most = self.max_length if self.arrangement.apart else self.max_length - len(source)
            if most < 2:
                raise DataError(
                    f"the prompt has {len(source)} tokens",
                    expected=f"less than {self.max_length}",
                    fix="shorten it, or raise data.max_length",
                )
            target = tuple(row[at : at + most])
            at += len(target)
            yield Example(
                input_ids=source, record=index, target=Aim((target,)), window=window, target_slots=len(target)
            )
            context, window = row[max(0, at - max(self.stride or 0, 1)) : at], window + 1

    def gold(self, record: Record) -> None:
        """The text is its own answer."""

    def metrics(self, results: Sequence[Any], golds: Sequence[Any]) -> dict[str, float]:
        """None of what was written: the loss says how well texts are known."""
        return {}

    def describe(self, results: Sequence[Any], golds: Sequence[Any], records: Sequence[Record]) -> dict[str, Any]:
        return {"intervals": {}}

    # -- text to tokens ------------------------------------------------------------------------------------------

    def draft(self, record: Record) -> Draft:
        """The text as it is, or with a mask behind it where a GLM is to write it on."""
        text = the_text(record)
        if not text.strip():
            raise DataError("the text is empty", where=record.where, expected="a text to fill or to write on")
        return Draft(text) if self.blanks is None else self.blanks.draft(text)

    def encode_many(self, records: Sequence[Record], *, start: int = 0) -> list[list[Example]]:
        """One example a record; texts to be written on are never cut.

        Raises:
            DataError: an empty text, a mask that the vocabulary lacks, too many masks, control tokens in the text, or a
                text beyond the model.
        """
        if self.learning:
            return self._lessons(records, start)
        seen: Counter[tuple[int, ...]] = Counter()
        examples = []
        for i, record in enumerate(records):
            ids = self._ids(record)
            # Equal texts draw different random numbers: the aim says which of them it is.
            examples.append([Example(input_ids=ids, record=start + i, target=Aim((), seen[tuple(ids)]))])
            seen[tuple(ids)] += 1
        return examples

    def _ids(self, record: Record) -> list[int]:
        draft = self.draft(record)
        if self.blanks is None:
            ids = self._framer.frame(self._framer.texts([draft.context])[0])
        else:
            ids = self.blanks.encode(draft.context, self._framer, where=record.where)
        if len(ids) > self.max_length:
            raise DataError(
                f"the text has {len(ids)} tokens",
                where=record.where,
                expected=f"at most {self.max_length}, special tokens counted",
                fix="shorten it; a text to be filled is never cut",
            )
        return ids

    def check_fits(self, examples: Sequence[Example], records: Sequence[Record], *, trained: bool = False) -> None:
        """Every text fits: a long one is learned in several windows, and one beyond the model is refused at once."""

    # -- tokens to more tokens, and to text ----------------------------------------------------------------------

    def generate(self, model: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """What is written for each text.

        Returns:
            `answers` int64 [batch, sequences, blanks, tokens], without ends, filled up with -1; `logprobs` float64 and
            `lengths` int64 [batch, sequences, blanks]: Σ log p and number of the chosen tokens, ends counted.
        """
        rows = zip(batch["input_ids"].tolist(), batch["prompt_length"].tolist(), strict=True)
        contexts = [ids[:length] for ids, length in rows]
        prompts = [GLMBlanks(self.tokenizer).prompt(ids) if self.family == "glm" else self.arrangement.prompt(ids)
                   for ids in contexts]  # fmt: skip
        return filling_arrays(
            self.write(model, prompts, copies=batch["copy"].tolist(), records=batch["record"].tolist())
        )

    def textless_ids(self) -> set[int]:
        """A T5 writes the signs of its blanks."""
        signs = self.blanks.signs if isinstance(self.blanks, SentinelBlanks) else ()
        return super().textless_ids() - set(signs)

    def decode(self, rows: Sequence[Arrays], examples: Sequence[Example], record: Record) -> Any:
        """A `Writing`, or a tuple of them where several sequences were asked for."""
        row, draft = rows[0], self.draft(record)
        sequences = zip(row["answers"], row["logprobs"], row["lengths"], strict=True)
        found = tuple(
            self._writing(draft, list(answers_in({"answers": a, "logprobs": p, "lengths": n})), float(p.sum()), n.sum())
            for a, p, n in sequences
        )
        return found if self.generation.num_return_sequences > 1 else found[0]

    def _writing(self, draft: Draft, answers: list[tuple[list[int], float]], logprob: float, length: int) -> Writing:
        score = float(np.exp(logprob / max(int(length), 1)))
        ids = [one for one, _ in answers]
        if self.blanks is not None:
            text, blanks = self.blanks.joined(draft, ids, lambda one: self.cut(self.text_of(one)))
        else:
            text, blanks = self._written_on(draft, ids[0])
        return Writing(text, blanks, score)

    def _written_on(self, draft: Draft, ids: list[int]) -> tuple[str, tuple[str, ...]]:
        if self.family != "decoder":
            answer = self.cut(self.text_of(ids)).strip()
            return answer, (answer,)
        answer = self.cut(self.going_on(draft.context, ids))
        return (draft.context + answer)[draft.hidden :], (answer.strip(),)

    def going_on(self, text: str, ids: list[int]) -> str:
        """What is new where tokens follow a text: white space between the two belongs to it."""
        before = self._framer.texts([text])[0]
        old, whole = self.text_of(before), self.text_of([*before, *ids])
        return whole[len(old) :] if whole.startswith(old) else self.text_of(ids)

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What depends on the model, and how tokens are chosen; of a GLM's model nothing need be known."""
        return super(GenerationTask, self).state() if self.family == "glm" else super().state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave; of a task saved before models had families, what it says of decoding."""
        if "family" in state:
            super().restore(state)
        else:
            super(GenerationTask, self).restore(state)


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
