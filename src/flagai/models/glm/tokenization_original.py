"""The tokenizer methods of the original FlagAI and THUDM/GLM, over today's. It keeps nothing and builds nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from flagai.errors import ModelError, unknown_name
from flagai.models.glm.commands import CommandToken, field_of, padded_size

_STAND_INS: Final = {"\n": "<n>"}
"""in the Chinese vocabularies the symbol <n> stands under a character that no normalised text has"""


@dataclass(frozen=True, slots=True)
class TypeToken:
    """One of the original's two token types; no model reads them."""

    name: str
    token: str
    Id: int


_TYPES: Final = (TypeToken("str0", "<str0>", 0), TypeToken("str1", "<str1>", 1))


class OriginalMethods:
    """What scripts for the original call. Mixed into `GLMTokenizer`, which brings the rest."""

    if TYPE_CHECKING:
        backend_tokenizer: Any
        command_tokens: tuple[CommandToken, ...]
        glm_layout: str
        base_size: int

        def decode(self, token_ids: Any, **kwargs: Any) -> str: ...
        def convert_ids_to_tokens(self, ids: Any) -> Any: ...
        def get_vocab(self) -> dict[str, int]: ...
        def __len__(self) -> int: ...

    # texts and tokens

    def EncodeAsIds(self, text: str, process_fn: Callable[[str], str] | None = None) -> list[int]:
        """The ids of a text as it stands, command tokens found, nothing added. A blank text has none."""
        return list(self._encoded(process_fn(text) if process_fn else text, "ids"))

    def EncodeAsTokens(self, text: str, process_fn: Callable[[str], str] | None = None) -> list[str]:
        """The tokens of a text as strings."""
        tokens = self._encoded(process_fn(text) if process_fn else text, "tokens")
        return [self._shown(token) for token in tokens]

    def _encoded(self, text: str, what: str) -> Sequence[Any]:
        if not text.strip():
            return []
        backend = self.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return getattr(backend.encode(text, add_special_tokens=False), what)

    def DecodeIds(self, Ids: Iterable[int], type_token: bool = False) -> str:
        """The text of ids, command tokens included; with `type_token` the names of token types."""
        if type_token:
            return " ".join(_TYPES[int(number)].token for number in Ids)
        return self.decode([int(number) for number in Ids], skip_special_tokens=False)

    def DecodeTokens(self, Tokens: Sequence[str], type_token: bool = False) -> str:
        """The text of tokens; WordPiece tokens are joined by spaces, as the original does it."""
        if type_token or self.glm_layout == "bert":
            return " ".join(str(getattr(token, "token", token)) for token in Tokens)
        return self.DecodeIds([self.TokenToId(token) for token in Tokens])

    def IdToToken(self, Id: int | CommandToken | TypeToken, type_token: bool = False) -> str:
        """The string of an id."""
        if isinstance(Id, CommandToken | TypeToken):
            return Id.token
        return _TYPES[Id].token if type_token else self._shown(self.convert_ids_to_tokens(int(Id)))

    def TokenToId(self, token: str | CommandToken | TypeToken, type_token: bool = False) -> int:
        """The id of a token as the vocabulary writes it, or of a text that is one token ("Yes" for WordPiece).

        Errors: `ModelError` for what is no token; SentencePiece vocabularies answer with the unknown piece.
        """
        if isinstance(token, CommandToken | TypeToken):
            return token.Id
        if type_token:
            return self.get_type(token.strip("<>")).Id
        known = {one.token: one.Id for one in self.command_tokens}
        found = known.get(token, self.backend_tokenizer.token_to_id(self._kept(token)))
        if found is not None:
            return found
        if self._is_chinese():
            return self.get_vocab()["<unk>"]
        if len(ids := self.EncodeAsIds(token)) == 1:
            return ids[0]
        raise ModelError(
            f"{token!r} is no token ({len(ids)} of them)", where="TokenToId", fix="EncodeAsIds takes any text"
        )

    def _shown(self, token: str) -> str:
        return _STAND_INS.get(token, token) if self._is_chinese() else token

    def _kept(self, token: str) -> str:
        """The string under which the vocabulary keeps a token."""
        symbols = {symbol: character for character, symbol in _STAND_INS.items()} if self._is_chinese() else {}
        return "" if token in symbols.values() else symbols.get(token, token)

    def _is_chinese(self) -> bool:
        return self.glm_layout.startswith("chinese")

    # command tokens

    def get_command(self, name: str) -> CommandToken:
        """A command token by the original's name (`ENC`, `MASK`, `gMASK`, …) or today's (`cls`, `mask`, `gmask`, …).

        Errors: `UnknownNameError` for no such name; `ModelError` for one that this vocabulary lacks.
        """
        field = field_of(name)
        found = next((token for token in self.command_tokens if field_of(token.name) == field), None)
        if found is None:
            there = ", ".join(token.name for token in self.command_tokens)
            raise ModelError(f"this vocabulary has no {name}", expected=f"one of: {there}", where="get_command")
        return found

    def get_command_id(self, name: str) -> int:
        """The id of a command token by name."""
        return self.get_command(name).Id

    def get_type(self, name: str) -> TypeToken:
        """A token type by name."""
        found = next((one for one in _TYPES if one.name == name), None)
        if found is None:
            raise unknown_name("token type", name, [one.name for one in _TYPES], where="get_type")
        return found

    def CommandTokenIds(self, exception: Collection[str] | None = None) -> list[int]:
        """The ids of the command tokens, but for the names in `exception`."""
        return [token.Id for token in self.command_tokens if token.name not in (exception or ())]

    def MultiWordId(self, exception: Collection[str] | None = None) -> list[int]:
        """The ids of the text tokens with more than two characters, but for those in `exception`."""
        words = (self._shown(word) for word in self.convert_ids_to_tokens(list(range(self.num_text_tokens))))
        return [number for number, word in enumerate(words) if len(word) > 2 and word not in (exception or ())]

    @property
    def _command_tokens(self) -> list[CommandToken]:
        return list(self.command_tokens)

    @property
    def command_name_map(self) -> dict[str, CommandToken]:
        """Name → command token."""
        return {token.name: token for token in self.command_tokens}

    @property
    def command_token_map(self) -> dict[str, CommandToken]:
        """String → command token."""
        return {token.token: token for token in self.command_tokens}

    @property
    def command_id_map(self) -> dict[int, CommandToken]:
        """Id → command token, the last of those that share it."""
        return {token.Id: token for token in self.command_tokens}

    # sizes

    @property
    def num_tokens(self) -> int:
        """Ids in use."""
        return max(self.base_size, 1 + max(token.Id for token in self.command_tokens))

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding of a published model with this vocabulary."""
        return padded_size(self.num_tokens)

    @property
    def num_text_tokens(self) -> int:
        """Tokens of the base vocabulary that are no command tokens."""
        return self.base_size - len({token.Id for token in self.command_tokens if token.Id < self.base_size})

    @property
    def num_command_tokens(self) -> int:
        """Command tokens by name; some share an id."""
        return len(self.command_tokens)

    @property
    def num_type_tokens(self) -> int:
        """Token types."""
        return len(_TYPES)

    # inputs of the original's seq2seq fine-tuning

    def encode_plus(
        self,
        source_text: str,
        second_text: str | None = None,
        target_text: str | None = None,
        truncation: bool = True,
        max_length: int | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """The original's training example of a plain causal model: sop, source, sep, then the target and eop.

        Args:
            second_text, target_text: the target; the original's first version took it as the second argument, later
                ones by name.
            max_length: most tokens of the source with sop and sep, and of the whole with a target (eop comes on top).

        Returns `input_ids`, `position_ids` [2, length] with block positions 0, `attention_mask` 0 (the length of the
        part that is seen in both directions), `loss_mask`, and `target_ids` where there is a target.
        """
        sop, eop, sep = (self.get_command_id(name) for name in ("sop", "eop", "sep"))
        room = max_length - 2 if truncation and max_length else None
        source = [sop, *self.EncodeAsIds(source_text)[:room], sep]
        target = target_text or second_text
        ids, loss_mask = source, [0] * len(source)
        if target:
            answer = self.EncodeAsIds(target)
            answer = [*(answer[: max(0, max_length - len(source))] if max_length else answer), eop]
            ids, loss_mask = [*source, *answer], [*loss_mask, *[1] * len(answer)]
        length = len(ids) - 1 if target else len(ids)
        sample: dict[str, Any] = {
            "input_ids": ids[:length],
            "attention_mask": 0,
            "loss_mask": loss_mask[:length],
            "position_ids": [list(range(length)), [0] * length],
        }
        return sample | {"target_ids": ids[1:]} if target else sample
