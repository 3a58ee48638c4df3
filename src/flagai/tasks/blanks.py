"""How masks in a text are read and filled: by a GLM one after the other, by a T5 all at once. Knows no record.

A T5's masks are its sentinels: `<extra_id_0>` stands for the first blank of a text, and the answer is each sentinel
followed by what belongs there (Raffel et al. 2020, section 3.1.4).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from flagai.errors import DataError
from flagai.models.glm.commands import MASKS
from flagai.models.glm.inputs_checks import check_control_tokens, check_masks, check_number_of_masks
from flagai.tasks.framing import Framer
from flagai.tasks.masks import join, split

if TYPE_CHECKING:
    from flagai.generate.writers.base import Prompt

TextOf = Callable[[Sequence[int]], str]
_SENTINEL: Final = re.compile(r"<extra_id_(\d+)>")


@dataclass(frozen=True, slots=True)
class Draft:
    """What the model reads for a record, and what of it the user sees again.

    Args:
        context: the text with masks.
        hidden: how many characters at its start the user did not write and does not want to see.
    """

    context: str
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class GLMBlanks:
    """A GLM's masks. `tokenizer` is a `GLMTokenizer`."""

    tokenizer: Any

    @property
    def last_mask(self) -> str:
        """The mask behind which anything long may follow."""
        return MASKS[0] if self.tokenizer.commands.gmask is None else "[gMASK]"

    def draft(self, text: str) -> Draft:
        """The text as it is; without a mask one is put behind it, as the original does.

        White space between the two would be read by no vocabulary; WordPiece answers want one after a Latin word.
        """
        if split(text).masks:
            return Draft(text)
        space = " " if self.tokenizer.glm_layout == "bert" and text[-1].isascii() and text[-1].isalnum() else ""
        return Draft(text + space + self.last_mask)

    def encode(self, context: str, framer: Framer, *, where: str) -> list[int]:
        """The ids of a context. Raises DataError for masks and control tokens that cannot stand there."""
        commands = self.tokenizer.commands
        check_masks(context, commands, where=where)
        ids = list(self.tokenizer.encode_context(context))
        check_number_of_masks(len(self.prompt(ids, where=where).blanks), len(split(context).masks), where=where)
        check_control_tokens(ids, commands, where=where)
        return ids

    def prompt(self, ids: Sequence[int], *, where: str = "") -> Prompt:
        """What is read before the first blank is filled. Raises DataError for no mask, or too many."""
        from flagai.generate.prompts import make_prompt

        return make_prompt(ids, self.tokenizer.commands, where=where)

    def joined(self, draft: Draft, answers: Sequence[Sequence[int]], text_of: TextOf) -> tuple[str, tuple[str, ...]]:
        """(the whole text without what was put before it, the answers)."""
        pieces = split(draft.context)
        texts = [text_of(ids) for ids in answers[: len(pieces.masks)]]
        return join(pieces, texts)[draft.hidden :], tuple(text.strip() for text in texts)


@dataclass(frozen=True)
class SentinelBlanks:
    """The masks of an encoder-decoder with sentinels (T5); one without takes texts as they are, and answers them."""

    tokenizer: Any

    @cached_property
    def signs(self) -> tuple[int, ...]:
        """The ids of the sentinels, those of the first blanks first."""
        found = {int(m[1]): i for token, i in self.tokenizer.get_vocab().items() if (m := _SENTINEL.fullmatch(token))}
        return tuple(found[number] for number in sorted(found))

    def draft(self, text: str) -> Draft:
        """The text as it is."""
        return Draft(text)

    def encode(self, context: str, framer: Framer, *, where: str) -> list[int]:
        """The ids of a context. Raises DataError for more masks than there are sentinels."""
        pieces = split(context)
        if not pieces.masks or not self.signs:
            return framer.frame(framer.texts([context])[0])
        if len(pieces.masks) > len(self.signs):
            raise DataError(
                f"the text has {len(pieces.masks)} masks",
                where=where,
                expected=f"at most {len(self.signs)}",
                fix="cut the text into several",
            )
        parts = framer.texts([part.rstrip() for part in pieces.parts])
        ids = list(parts[0])
        for sign, part in zip(self.signs, parts[1:], strict=False):
            ids += [sign, *part]
        return framer.frame(ids)

    def joined(self, draft: Draft, answers: Sequence[Sequence[int]], text_of: TextOf) -> tuple[str, tuple[str, ...]]:
        """(the whole text, what belongs in each blank); of a text without masks the answer alone."""
        pieces = split(draft.context)
        if not pieces.masks or not self.signs:
            text = text_of(answers[0]).strip()
            return text, (text,)
        found = self._parts(answers[0])
        texts = [text_of(found.get(sign, [])) for sign in self.signs[: len(pieces.masks)]]
        return join(pieces, texts), tuple(text.strip() for text in texts)

    def _parts(self, ids: Sequence[int]) -> dict[int, list[int]]:
        parts: dict[int, list[int]] = {}
        sign = None
        for number in ids:
            if number in self.signs:
                sign = number
                parts.setdefault(sign, [])
            elif sign is not None:
                parts[sign].append(number)
        return parts
