"""Sources and targets → framed token ids, by family: special tokens, template, mask. Knows no batch and no loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from flagai.data.record import Record
from flagai.errors import ConfigError, ModelError
from flagai.models.glm.inputs_checks import check_masks
from flagai.tasks.templates import Encoder, Source, Template, Truncation, make_template, shorten

TEMPLATES: Final[Mapping[str, str]] = {
    "": "{source}",
    "glm": "{source}[gMASK]",
    "decoder": "{source}\n",
}
"""family → what stands around a source unless the run or the task says otherwise"""


class Framer:
    """Texts as a family reads and writes them.

    Args:
        tokenizer: a Hugging Face fast tokenizer.
        family: see `flagai.models.families`.
        template: the run's own, or None.
        defaults: templates of the task, by family.
        truncation: which part of a source too long is cut away.
        separates: whether something stands between a source and what a decoder writes: not where it goes on writing.

    Raises:
        ConfigError: a template that cannot be meant.
    """

    def __init__(
        self,
        tokenizer: Any,
        family: str,
        template: str | None,
        defaults: Mapping[str, str],
        truncation: Truncation,
        *,
        separates: bool = True,
    ) -> None:
        self._tokenizer, self._family, self._separates = tokenizer, family, separates
        self._truncation: Truncation = truncation
        self._encoder = Encoder(tokenizer)
        text = template if template is not None else self._default(defaults)
        self.template: Template = make_template(text, masks=family == "glm")
        self._before, self._between, self._after = self._frame(text)

    def _default(self, defaults: Mapping[str, str]) -> str:
        merged = {**TEMPLATES, **defaults}
        text = merged.get(self._family, merged[""])
        if self._family == "glm" and self._tokenizer.commands.gmask is None:
            text = text.replace("[gMASK]", "[MASK]")
        # A tokenizer with separators needs no line break between source and target, and may not know one.
        return text.rstrip("\n") if self._separator() else text

    def _separator(self) -> list[int]:
        """What a tokenizer of BERT's kind puts behind a text that a decoder goes on from."""
        sep = getattr(self._tokenizer, "sep_token_id", None)
        if sep is None or not self._separates or self._family != "decoder":
            return []
        return [int(sep)] if self._encoder.after == [sep] else []

    def _frame(self, text: str) -> tuple[list[int], list[int], list[int]]:
        """Special tokens in front of a source, between the parts of its template, and behind it."""
        if self._family == "glm":
            commands = self._tokenizer.commands
            check_masks(text, commands, where="task.template")
            masks = {"[MASK]": commands.mask, "[sMASK]": commands.smask, "[gMASK]": commands.gmask}
            blank = masks[self.template.masks[0]]
            assert blank is not None, "check_masks refuses what the vocabulary lacks"
            # As `GLMTokenizer.encode_context` frames: what goes on behind [gMASK] has no end.
            after = [] if text.endswith("[gMASK]") else [commands.eos]
            return [commands.cls], [blank], after
        if self._family == "decoder":
            return self._encoder.before, [], self._separator()
        return self._encoder.before, [], self._encoder.after

    def check(self) -> None:
        """Raises ModelError where nothing would part a source from its target."""
        if self._family == "encoder" and not self._encoder.after:
            raise ModelError(
                "the tokenizer puts no token behind a text",
                expected="a tokenizer of BERT's kind: [CLS] text [SEP]",
                fix="use the tokenizer the model was trained with",
            )

    def sources(self, given: Sequence[tuple[Record, str]], room: int) -> list[tuple[list[int], int]]:
        """(record, its source) → (framed ids of at most `room` tokens, number of tokens cut).

        Raises:
            ConfigError: the template alone is longer.
        """
        parts = [self.template.fill(record, text) for record, text in given]
        encoded = iter(self._encoder.sources([part for one in parts for part in one]))
        found = []
        for one in parts:
            ids, lost = shorten(self._framed([next(encoded) for _ in one]), room, self._truncation)
            if len(ids) > room:
                raise ConfigError(
                    f"the template and special tokens are {len(ids)} tokens, and there is room for {room}",
                    where="task.template",
                    fix="shorten it, or raise data.max_length",
                )
            found.append((ids, lost))
        return found

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts without any frame."""
        return self._encoder(texts)

    def frame(self, ids: Sequence[int]) -> list[int]:
        """Ids of a source without a template, framed."""
        return [*self._before, *ids, *self._between, *self._after]

    def _framed(self, parts: Sequence[Source]) -> Source:
        ids, loose = list(self._before), range(0)
        for at, part in enumerate(parts):
            ids += self._between[:1] if at else []
            if part.loose:
                loose = range(len(ids) + part.loose.start, len(ids) + part.loose.stop)
            ids += part.ids
        return Source(ids + self._after, loose)

    def targets(self, texts: Sequence[str], end: int) -> list[list[int]]:
        """Targets with the token that ends them; those of an encoder-decoder framed as its tokenizer frames a text."""
        before = self._encoder.before if self._family == "encoder-decoder" else []
        after = self._encoder.after if self._family == "encoder-decoder" else []
        tail = after if after and after[-1] == end else [*after, end]
        return [[*before, *ids, *tail] for ids in self._encoder(texts)]
