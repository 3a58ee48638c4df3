"""Which vocabulary lies in a folder or file, and whether a folder is a GLM's. It builds no tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flagai.errors import MissingFileError, ModelError
from flagai.models.checkpoints import read_json
from flagai.models.glm.commands import PUBLISHED_SIZES, CommandToken, LayoutName, padded_size
from flagai.models.loading import is_glm

SENTENCEPIECE_FILES: Final = ("cog-pretrain.model", "spiece.model")
"""THUDM's and the remote code's name of the Chinese vocabulary, and FlagAI's later one"""
VOCABULARIES: Final = f"{SENTENCEPIECE_FILES[0]}, vocab.json with merges.txt, or vocab.txt"
TOKENIZER_FILE: Final = "tokenizer.json"
CONFIG_FILE: Final = "tokenizer_config.json"
COMMANDS_KEY: Final = "glm_commands"

_REMOTE_CLASSES: Final[Mapping[str, LayoutName]] = {
    "GLMChineseTokenizer": "chinese-large",
    "GLMGPT2Tokenizer": "gpt2",
    "GLMRobertaTokenizer": "roberta",
    "GLMBertTokenizer": "bert",
}
_LAYERS_OF_10B: Final = 48
_HELDS: Final[Mapping[str, tuple[LayoutName, ...]]] = {
    ".model": ("chinese-10b", "chinese-large"),
    ".json": ("gpt2", "roberta"),
    ".txt": ("bert",),
}


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A folder that holds the tokenizer of a GLM."""

    saved: bool
    """whether `GLMTokenizer.save_pretrained` wrote it"""
    layout: LayoutName | None = None
    """None: what the vocabulary file is"""
    model_max_length: int | None = None
    lower_case: bool | None = None
    vocab_size: int | None = None
    """rows of the embedding that the weights have"""
    added: Mapping[str, int] = field(default_factory=dict)
    """added_tokens.json of the remote code"""


def recognise(folder: Path) -> Recognised | None:
    """What a folder is by its files and configuration; None if it is no GLM's.

    Known are the folders of `GLMTokenizer.save_pretrained`, of the Hugging Face remote code (by the class that its
    tokenizer_config.json names), of FlagAI (by the fields of config.json) and of THUDM's vocabulary (by its file).
    """
    told, raw = _json(folder / CONFIG_FILE), _json(folder / "config.json")
    if (folder / TOKENIZER_FILE).is_file() and COMMANDS_KEY in told:
        return Recognised(saved=True)
    remote = _REMOTE_CLASSES.get(str(told.get("tokenizer_class")).removesuffix("Fast"))
    if remote is None and not is_glm(raw) and not (raw == {} and (folder / SENTENCEPIECE_FILES[0]).is_file()):
        return None
    added = {str(token): int(number) for token, number in _json(folder / "added_tokens.json").items()}
    return Recognised(
        saved=False,
        layout=_layout(folder, remote, raw, added),
        model_max_length=raw.get("max_sequence_length"),
        lower_case=told.get("do_lower_case"),
        vocab_size=raw.get("vocab_size"),
        added=added,
    )


def _json(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _layout(
    folder: Path, remote: LayoutName | None, raw: Mapping[str, Any], added: Mapping[str, int]
) -> LayoutName | None:
    """The layout where the vocabulary file alone does not tell: the Chinese one has two.

    The remote code numbers the commands of both Chinese models as the large one's; its 10B weights were changed to fit.
    """
    if remote is None and not any((folder / name).is_file() for name in SENTENCEPIECE_FILES):
        return None
    if remote not in (None, "chinese-large"):
        return remote
    if "[gMASK]" in added:
        return "chinese-10b" if added["[gMASK]"] == added.get("<|endofpiece|>") else "chinese-large"
    return "chinese-10b" if remote is None and raw.get("num_layers") == _LAYERS_OF_10B else "chinese-large"


def check_fit(found: Recognised, tokens: tuple[CommandToken, ...], num_tokens: int, layout: str, where: str) -> None:
    """Compare a vocabulary with the weights and with added_tokens.json.

    RoBERTa's folders may number [MASK] anew there (50267); the weights know <mask> (50264), so that line is ignored.
    Errors: `ModelError` where they cannot belong together.
    """
    rows = found.vocab_size
    others = {padded_size(size + 2) for size in PUBLISHED_SIZES.values()}
    if rows is not None and (num_tokens > rows or (rows in others and rows != padded_size(num_tokens))):
        raise ModelError(
            f"the vocabulary has {num_tokens} tokens ({layout}), the weights have {rows} rows",
            expected=f"{padded_size(num_tokens)} rows, or the vocabulary that the weights were trained with",
            fix="copy vocabulary and weights of the same model",
            where=where,
        )
    for token in tokens:
        number = found.added.get(token.token, token.Id)
        if number != token.Id and not (layout == "roberta" and token.name == "MASK"):
            raise ModelError(
                f"added_tokens.json gives {token.token} the id {number}, the layout {layout!r} has {token.Id}",
                expected="the ids that the published model was trained with",
                fix="correct added_tokens.json, or load the vocabulary with GLMTokenizer.from_vocabulary(layout=…)",
                where=where,
            )


def vocabulary_file(path: Path) -> Path:
    """The vocabulary file of a folder, or the file itself."""
    if path.is_file():
        return beside(path, "vocab.json") if path.name == "merges.txt" else path
    for name in (*SENTENCEPIECE_FILES, "vocab.json", "vocab.txt"):
        if (path / name).is_file():
            return path / name
    raise MissingFileError(
        "no vocabulary here" if path.is_dir() else "there is no such file or folder",
        expected=VOCABULARIES,
        fix="copy the vocabulary of the published model into the folder",
        where=str(path),
    )


def beside(file: Path, name: str) -> Path:
    """The file `name` in the same folder; published files may carry a prefix (gpt2-vocab.json, gpt2-merges.txt)."""
    stem = file.name.removesuffix("vocab.json").removesuffix("merges.txt")
    for candidate in (file.parent / name, file.parent / f"{stem}{name}"):
        if candidate.is_file():
            return candidate
    raise MissingFileError(
        f"{file.name} without {name}", expected="both files", fix=f"copy {name} there", where=str(file.parent)
    )


def layout_of(file: Path) -> LayoutName:
    """The layout that a vocabulary file stands for by itself."""
    if file.suffix == ".model":
        return "chinese-large"
    if file.suffix == ".json":
        try:
            names = json.loads(file.read_text("utf-8"))
        except ValueError:
            names = {}  # whoever reads it says what is wrong with it
        return "roberta" if "<s>" in names and "</s>" in names else "gpt2"
    return "bert"


def check_kind(file: Path, layout: LayoutName) -> None:
    """Refuse a file that no vocabulary of the layout is kept in."""
    if layout not in _HELDS.get(file.suffix, ()):
        raise ModelError(
            f"{file.name} is no vocabulary of the layout {layout!r}",
            expected={".model": SENTENCEPIECE_FILES[0], ".json": "vocab.json and merges.txt", ".txt": "vocab.txt"}[
                next(suffix for suffix, layouts in _HELDS.items() if layout in layouts)
            ],
            fix="give the file of this layout, or leave layout out",
            where=str(file.parent),
        )
