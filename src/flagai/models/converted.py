"""What converting a model's folder means whatever its family: options, checks, what goes along, what is told.

It knows no layout and reads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from flagai.errors import ConfigError, OutputError, unknown_name

DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BESIDE: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
    "LICENSE*",
)
"""what lies beside the weights and belongs to a model in every layout"""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What was written."""

    source: str
    """the layout that it was read in"""
    target: str
    folder: Path
    files: tuple[str, ...]
    """all files, relative to the folder"""
    num_tensors: int
    num_parameters: int
    dtypes: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    """tensors and files of the source that the layout has no place for"""
    notes: tuple[str, ...] = ()


def check_dtype(dtype: str) -> None:
    """Raises UnknownNameError for what is neither "keep" nor one of `DTYPES`."""
    if dtype not in ("keep", *DTYPES):
        raise unknown_name("dtype", dtype, ("keep", *DTYPES), where="--dtype")


def check_target(target: Path, source: Path) -> None:
    """Raises OutputError where the target is there already, ConfigError where it lies in the source."""
    if target.exists():
        raise OutputError("it exists already", where=str(target), fix="choose another folder")
    if target.resolve().is_relative_to(source.resolve()):
        raise ConfigError("the target lies in the source", where=str(target), fix="choose a folder beside it")


def files_in(folder: Path) -> tuple[str, ...]:
    """All files, relative to the folder."""
    return tuple(sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()))


def dtype_names(dtypes: set[torch.dtype]) -> tuple[str, ...]:
    """As they are told: "float32" and the like."""
    return tuple(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
