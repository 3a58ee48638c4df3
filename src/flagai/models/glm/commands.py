"""The command tokens of GLM: their ids, and the five published ways of numbering them behind a base vocabulary.

It knows no text and no tokenizer: a base vocabulary is to it a size and a way to look a token up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from flagai.errors import ModelError, unknown_name

LayoutName = Literal["bert", "roberta", "gpt2", "chinese-10b", "chinese-large"]
LAYOUTS: Final[tuple[LayoutName, ...]] = get_args(LayoutName)
PUBLISHED_SIZES: Final[Mapping[LayoutName, int]] = {
    "bert": 30522,
    "roberta": 50265,
    "gpt2": 50257,
    "chinese-10b": 50000,
    "chinese-large": 50000,
}
"""tokens of the base vocabulary that the published models of a layout have"""

SOP: Final = "<|startofpiece|>"
EOP: Final = "<|endofpiece|>"
MASKS: Final = ("[MASK]", "[sMASK]", "[gMASK]")
_MULTIPLE: Final = 128
_FIELDS: Final = {"ENC": "cls", "MASK": "mask", "gMASK": "gmask", "sMASK": "smask", "dBLOCK": "dblock"}


@dataclass(frozen=True, slots=True)
class CommandToken:
    """One command token under the original's name for it; `lstrip`: it takes the white space in front of it along."""

    name: str
    token: str
    Id: int
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True, kw_only=True)
class Commands:
    """The ids of the command tokens; None for those a vocabulary lacks.

    pad, eos and sep may share an id, and in `chinese-10b` eop and gmask do. The BERT layout ends texts with its pad.
    """

    cls: int
    eos: int
    pad: int
    sep: int
    unk: int
    sop: int
    eop: int
    mask: int
    smask: int | None = None
    gmask: int | None = None
    dblock: int | None = None

    @property
    def mask_ids(self) -> tuple[int, ...]:
        """The ids of all mask tokens there are: [MASK], then [sMASK] and [gMASK]."""
        return tuple(number for number in (self.mask, self.smask, self.gmask) if number is not None)


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    token: str
    place: int | str
    """behind the base vocabulary (0 is the first id there), or the token of the base vocabulary that serves as it"""
    lstrip: bool = False


_BERT: Final = (
    _Row("pad", "[PAD]", "[PAD]"),
    _Row("ENC", "[CLS]", "[CLS]"),
    _Row("MASK", "[MASK]", "[MASK]"),
    _Row("unk", "[UNK]", "[UNK]"),
    _Row("sep", "[SEP]", "[SEP]"),
    _Row("eos", "[PAD]", "[PAD]"),
    _Row("sop", SOP, 0),
    _Row("eop", EOP, 1),
)
_ROBERTA: Final = (
    _Row("pad", "<|endoftext|>", "</s>"),
    _Row("eos", "<|endoftext|>", "</s>"),
    _Row("sep", "[SEP]", "</s>"),
    _Row("ENC", "[CLS]", "<s>"),
    _Row("MASK", "[MASK]", "<mask>", lstrip=True),
    _Row("unk", "[UNK]", "<unk>"),
    _Row("sop", SOP, 0),
    _Row("eop", EOP, 1),
)
_GPT2: Final = (
    _Row("pad", "<|endoftext|>", "<|endoftext|>"),
    _Row("eos", "<|endoftext|>", "<|endoftext|>"),
    _Row("sop", SOP, 0),
    _Row("eop", EOP, 1),
    _Row("ENC", "[CLS]", 2),
    _Row("MASK", "[MASK]", 3, lstrip=True),
    _Row("sep", "[SEP]", 4),
    _Row("unk", "[UNK]", 5),
)
_CHINESE: Final = (
    _Row("pad", "<|endoftext|>", 0),
    _Row("eos", "<|endoftext|>", 0),
    _Row("sep", "[SEP]", 1),
    _Row("ENC", "[CLS]", 2),
    _Row("MASK", "[MASK]", 3, lstrip=True),
    _Row("unk", "[UNK]", 4),
    _Row("sop", SOP, 6),
    _Row("eop", EOP, 7),
)
_ALWAYS: Final[Mapping[LayoutName, tuple[_Row, ...]]] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "gpt2": _GPT2,
    "chinese-10b": _CHINESE,
    "chinese-large": _CHINESE,
}
_TASK_MASKS: Final[Mapping[LayoutName, tuple[_Row, ...]]] = {
    "bert": (_Row("gMASK", "[gMASK]", 2), _Row("sMASK", "[sMASK]", 3)),
    "roberta": (_Row("gMASK", "[gMASK]", 2, lstrip=True), _Row("sMASK", "[sMASK]", 3, lstrip=True)),
    "gpt2": (_Row("gMASK", "[gMASK]", 6, lstrip=True), _Row("sMASK", "[sMASK]", 7, lstrip=True)),
    # The original gave [gMASK] the id of the end of a piece; its 10B model was trained so.
    "chinese-10b": (_Row("gMASK", "[gMASK]", 7, lstrip=True), _Row("sMASK", "[sMASK]", 8, lstrip=True)),
    "chinese-large": (_Row("sMASK", "[sMASK]", 8, lstrip=True), _Row("gMASK", "[gMASK]", 9, lstrip=True)),
}


def has_task_masks(layout: LayoutName) -> bool:
    """Whether the published models of a layout were trained with [sMASK] and [gMASK]."""
    return layout in ("gpt2", "chinese-10b", "chinese-large")


def check_layout(name: str) -> LayoutName:
    """The name, if it is one of `LAYOUTS`; else `UnknownNameError`."""
    for layout in LAYOUTS:
        if name == layout:
            return layout
    raise unknown_name("GLM vocabulary layout", name, LAYOUTS, where="layout")


def command_tokens(
    layout: LayoutName,
    base: Mapping[str, int] | None = None,
    *,
    base_size: int | None = None,
    task_mask: bool | None = None,
    dblock: bool = False,
) -> tuple[CommandToken, ...]:
    """The command tokens of a layout, in the original's order.

    Args:
        base: the base vocabulary, token → id; may be left out for the Chinese layouts, which take nothing from it.
        base_size: ids that the base vocabulary uses (default: one more than the largest, or the published size).
        task_mask: with [sMASK] and [gMASK]; default as the published models of the layout.
        dblock: with [dBLOCK], which replaces words of a span in pre-training.

    Errors: `ModelError` where the base vocabulary lacks a token that the layout takes from it.
    """
    base = base or {}
    size = base_size if base_size is not None else 1 + max(base.values(), default=PUBLISHED_SIZES[layout] - 1)
    with_masks = has_task_masks(layout) if task_mask is None else task_mask
    rows = _ALWAYS[layout] + (_TASK_MASKS[layout] if with_masks else ())
    if lost := sorted({str(row.place) for row in rows if isinstance(row.place, str) and row.place not in base}):
        raise ModelError(
            f"the vocabulary has no {', '.join(lost)}",
            expected=f"a base vocabulary of the layout {layout!r}",
            fix=f"give the right file, or another layout of {', '.join(LAYOUTS)}",
        )
    tokens = [
        CommandToken(
            row.name, row.token, base[row.place] if isinstance(row.place, str) else size + row.place, row.lstrip
        )
        for row in rows
    ]
    if dblock:
        tokens.append(CommandToken("dBLOCK", "[dBLOCK]", 1 + max(token.Id for token in tokens)))
    return tuple(tokens)


def commands_of(tokens: Iterable[CommandToken]) -> Commands:
    """The ids by today's names."""
    return Commands(**{_FIELDS.get(token.name, token.name): token.Id for token in tokens})


def field_of(name: str) -> str:
    """Today's name of a command: `ENC` and `cls`, `MASK` and `mask`, … mean the same.

    Errors: `UnknownNameError`, with the names there are.
    """
    field = _FIELDS.get(name, name.lower())
    field = "cls" if field == "enc" else field
    if field not in Commands.__dataclass_fields__:
        raise unknown_name("command token", name, Commands.__dataclass_fields__, where="get_command")
    return field


def num_tokens(tokens: Iterable[CommandToken], base_size: int) -> int:
    """Ids in use, base vocabulary and commands."""
    return max(base_size, 1 + max(token.Id for token in tokens))


def padded_size(tokens: int, multiple: int = _MULTIPLE) -> int:
    """Rows of the embedding of a published model: the ids in use, rounded up to a multiple of 128."""
    return -(-tokens // multiple) * multiple
