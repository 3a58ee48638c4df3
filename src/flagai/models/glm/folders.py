"""Whether a folder holds a GLM of 2022, in whose layout, and its configuration. It opens no more than it must to know.

It knows no model class and reads no weights: of a file without a config.json beside it, it looks at the names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flagai.errors import CheckpointError, ModelError
from flagai.models.checkpoints import is_slice, iteration_folder, read_json, read_pickle, weight_files
from flagai.models.glm.layouts import SIGN, Layout, Sizes, bare_name
from flagai.models.loading import is_glm, quiet_config
from flagai.models.safetensors_file import safetensors_header

if TYPE_CHECKING:
    from flagai.models.glm.configuration import GLMConfig

OUR_TYPE: Final = "flagai_glm"
_PUBLISHED_TYPE: Final = "glm"
_HEADS: Final = {(12, 768): 12, (24, 1024): 16, (30, 1024): 16, (30, 1152): 18, (36, 2048): 32, (48, 4096): 64}
"""(layers, hidden size) → attention heads of the released models; the tensors do not tell them"""


@dataclass(frozen=True, kw_only=True)
class GLMFolder:
    """A folder that holds a GLM."""

    given: Path
    """the folder that was asked for"""
    folder: Path
    """where the weights lie: the folder itself or the iteration inside it"""
    layout: Layout
    files: tuple[Path, ...]
    """all files of weights; of model-parallel shards in the order of their ranks"""
    config: Mapping[str, Any] | None
    """the content of config.json, in the iteration or beside it (named itself or not); THUDM's folders have none"""
    config_file: Path | None

    @property
    def ranks(self) -> int:
        """How many model-parallel parts each tensor is cut into."""
        return len(self.files) if is_slice(self.files[0]) else 1


def find_glm(folder: str | Path) -> GLMFolder | None:
    """What a folder says of itself if it is a GLM of 2022, None if it is anything else.

    Errors: `MissingFileError` without a folder; `CheckpointError` for a GLM's folder without weights or with some of
        their files missing.
    """
    given = Path(folder)
    if not given.is_dir():
        return None
    inner, config_file, raw = _config_in(given)
    if not (raw is not None and is_glm(raw)) and not (_says_nothing(raw) and _has_glm_names(inner)):
        return None
    files = _files(inner)
    return GLMFolder(
        given=given,
        folder=inner,
        layout=_layout(files, raw),
        files=files,
        config=raw,
        config_file=config_file,
    )


def _config_in(given: Path) -> tuple[Path, Path | None, dict[str, Any] | None]:
    """Where the weights are, config.json there or in the folder that was asked for, and what it says."""
    inner = iteration_folder(given)
    file = next((one for one in (inner / "config.json", given / "config.json") if one.is_file()), None)
    if file is not None:
        return inner, file, read_json(file)
    beside = given.absolute().parent / "config.json"  # an iteration was named itself
    if given.absolute().name.isdecimal() and beside.is_file() and is_glm(raw := read_json(beside)):
        return inner, beside, raw
    return inner, None, None


def _files(folder: Path) -> tuple[Path, ...]:
    """The files of weights; where only iterations inside the folder have some, the error names them."""
    try:
        return weight_files(folder)[0]
    except CheckpointError as error:
        places = iterations(folder)
        if not places:
            raise
        fix = f"name an iteration's folder itself: {' or '.join(map(str, places))}"
        raise CheckpointError(error.found, expected=error.expected, fix=fix, where=error.where) from error


def iterations(folder: Path) -> list[Path]:
    """The folders inside that bear a number and hold model-parallel slices or another file of weights."""
    if any(is_slice(file) for file in folder.iterdir()):
        return []
    numbered = (entry for entry in folder.iterdir() if entry.is_dir() and entry.name.isdecimal())
    suffixes = {".pt", ".bin", ".safetensors"}
    with_weights = [one for one in numbered if any(file.suffix in suffixes for file in one.iterdir())]
    return sorted(with_weights, key=lambda one: int(one.name))


def _says_nothing(raw: Mapping[str, Any] | None) -> bool:
    """Whether only the names of the tensors can tell what a folder holds."""
    return raw is None or raw.get("model_type") is None


def _has_glm_names(folder: Path) -> bool:
    try:
        file = weight_files(folder)[0][0]
        names = safetensors_header(file) if file.suffix == ".safetensors" else read_pickle(file)
    except CheckpointError:
        return False  # whoever reads the folder as something else says what is wrong with it
    return any(bare_name(name) == SIGN for name in names)


def _layout(files: tuple[Path, ...], raw: Mapping[str, Any] | None) -> Layout:
    kind = None if raw is None else raw.get("model_type")
    if files[0].name.startswith("mp_rank_"):
        return "thudm"
    if kind is None or is_slice(files[0]):
        return "flagai-original"
    return "flagai" if kind == OUR_TYPE else "huggingface"


# configuration


def glm_config(folder: str | Path) -> GLMConfig | None:
    """The configuration of a folder that holds a GLM, with weights or without; None for any other folder.

    Errors: as for `config_of`.
    """
    _, file, raw = _config_in(Path(folder))
    if raw is not None and is_glm(raw):
        return quiet_config({"model_type": _PUBLISHED_TYPE} | raw, str(file))
    found = find_glm(folder)
    return None if found is None else config_of(found)


def config_of(found: GLMFolder, sizes: Sizes | None = None) -> GLMConfig:
    """The configuration of a folder, compared with the sizes that its tensors have where they are given.

    Without a config.json it is made from `sizes`, where a released model has these. More positions than the tensors
    have are allowed: the tables are extended on loading.
    Errors: `ModelError` for fields that lack or cannot be meant; `CheckpointError` where they contradict the tensors.
    """
    if found.config is None:
        if sizes is None:
            from flagai.models.glm.sources import Source

            sizes = Source(found).sizes
        return quiet_config(_config_from(sizes, str(found.folder)) | {"model_type": OUR_TYPE}, str(found.folder))
    where = str(found.config_file)
    config = quiet_config({"model_type": _PUBLISHED_TYPE} | dict(found.config), where)
    if sizes is not None:
        _compare(config, sizes, where)
    return config


def _config_from(sizes: Sizes, where: str) -> dict[str, Any]:
    fields = {
        "num_layers": sizes.num_layers,
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.hidden_size,
        "max_sequence_length": sizes.max_sequence_length,
    }
    heads = _HEADS.get((sizes.num_layers, sizes.hidden_size))
    if heads is None:
        missing = json.dumps(fields).removesuffix("}") + ', "num_attention_heads": …}'
        raise ModelError(
            f"no config.json, and no released GLM has {sizes.num_layers} layers of {sizes.hidden_size}: the number of "
            "attention heads is not known",
            expected="a config.json beside the weights",
            fix=f"write one with the number of heads: {missing}",
            where=where,
        )
    return {**fields, "num_attention_heads": heads}


def _compare(config: GLMConfig, sizes: Sizes, where: str) -> None:
    wrong = [
        f"{name} = {getattr(config, name)} but the tensors have {getattr(sizes, name)}"
        for name in ("num_layers", "hidden_size", "vocab_size")
        if getattr(config, name) != getattr(sizes, name)
    ]
    if config.max_sequence_length < sizes.max_sequence_length:
        wrong.append(
            f"max_sequence_length = {config.max_sequence_length} but the position tables have "
            f"{sizes.max_sequence_length + 1} rows, for {sizes.max_sequence_length}"
        )
    if wrong:
        raise CheckpointError(
            f"config.json says {'; '.join(wrong)}",
            expected="config.json and weights of one model",
            fix="copy or download both again",
            where=where,
        )
