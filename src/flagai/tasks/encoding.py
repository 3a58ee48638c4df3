"""Texts → windows of token ids with exact character offsets. Knows no labels and no model.

Works on the Rust tokenizer behind a Hugging Face fast tokenizer, so that what is cut, and where, is ours to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flagai.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding


@dataclass(frozen=True, slots=True)
class Window:
    """One model input of a text: ids with special tokens; `offsets[i]` is (0, 0) for those."""

    input_ids: list[int]
    token_type_ids: list[int] | None
    offsets: list[tuple[int, int]] | None


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text in windows (one, unless it is long and `stride` is set) and the number of tokens in none of them."""

    windows: list[Window]
    tokens_lost: int


class TextEncoder:
    """Encode texts or pairs of texts.

    Args:
        tokenizer: a Hugging Face fast tokenizer.
        max_length: most tokens of a window, special tokens counted.
        stride: tokens that neighbouring windows of a long text share; None cuts the text after the first window.
            Pairs are never windowed: the longer text is cut first.
        offsets: whether windows tell where their tokens stand; asking costs as much as the encoding itself.
    """

    def __init__(self, tokenizer: Any, *, max_length: int, stride: int | None = None, offsets: bool = True) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(
                f"{type(tokenizer).__name__} has no fast tokenizer",
                expected="a tokenizer.json, or a vocabulary that transformers converts to one",
                fix="save it once with a fast tokenizer class, or choose another model",
            )
        self._backend = backend
        self._stride, self._offsets = stride, offsets
        self._filler: int = next((i for i in (tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None), 0)
        self._with_types = "token_type_ids" in tokenizer.model_input_names
        self._room = max_length - backend.num_special_tokens_to_add(False)
        self._pair_room = max_length - backend.num_special_tokens_to_add(True)
        _check_room(max_length, stride, self._room, self._pair_room)

    def __call__(self, texts: Sequence[str], pairs: Sequence[str | None] | None = None) -> list[Encoded]:
        """One `Encoded` a text, in order."""
        first = self._raw(texts)
        if pairs is None:
            return [self._single(encoding) for encoding in first]
        second = self._raw([pair or "" for pair in pairs])
        return [
            self._single(a) if pair is None else self._pair(a, b)
            for a, b, pair in zip(first, second, pairs, strict=True)
        ]

    def _raw(self, texts: Sequence[str]) -> list[Encoding]:
        # A tokenizer.json may carry padding and truncation of its own (all-MiniLM-L6-v2: 128); both would hide losses.
        self._backend.no_padding()
        self._backend.no_truncation()
        return self._backend.encode_batch(list(texts), add_special_tokens=False)

    def _single(self, encoding: Encoding) -> Encoded:
        total = len(encoding)
        encoding.truncate(self._room, stride=self._stride or 0)
        kept = [encoding, *encoding.overflowing] if self._stride is not None else [encoding]
        lost = total - len(encoding) if self._stride is None else 0
        return Encoded([self._window(self._backend.post_process(part)) for part in kept], lost)

    def _pair(self, first: Encoding, second: Encoding) -> Encoded:
        total = len(first) + len(second)
        keep_first, keep_second = longest_first(len(first), len(second), self._pair_room)
        first.truncate(keep_first)
        second.truncate(keep_second)
        window = self._window(self._backend.post_process(first, second))
        return Encoded([window], total - keep_first - keep_second)

    def _window(self, encoding: Encoding) -> Window:
        if not encoding.ids:
            # An empty text for a tokenizer without special tokens: one token, so that there is something to read.
            return Window([self._filler], [0] if self._with_types else None, [(0, 0)] if self._offsets else None)
        types = encoding.type_ids if self._with_types else None
        return Window(encoding.ids, types, encoding.offsets if self._offsets else None)


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text to keep so that both fit `room`: the longer loses first, a tie costs the second."""
    over = first + second - room
    if over <= 0:
        return first, second
    level = min(over, abs(first - second))
    first, second = (first - level, second) if first > second else (first, second - level)
    rest = over - level
    return first - rest // 2, second - (rest - rest // 2)


def _check_room(max_length: int, stride: int | None, room: int, pair_room: int) -> None:
    if pair_room < 2:
        raise ConfigError(
            f"{max_length} tokens leave no room for text",
            where="data.max_length",
            expected="at least 8",
            fix="raise it",
        )
    if stride is not None and not 0 <= stride < room:
        raise ConfigError(
            f"windows of {room} text tokens cannot share {stride}",
            where="data.stride",
            expected=f"0 to {room - 1}",
            fix="a quarter of data.max_length is a good start",
        )
