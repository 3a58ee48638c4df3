"""A folder of any family but GLM: what lies in it, and the same model as a folder in another layout. Knows no task.

The target is written under another name and renamed when it is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Final, Literal

import torch

from flagai.data.whole import whole_folder
from flagai.errors import CheckpointError, ConfigError, ModelError, unknown_name
from flagai.models import legacy
from flagai.models.checkpoints import WeightsInfo, read_json, read_state_dict, verify_weights
from flagai.models.converted import BESIDE, DTYPES, Converted, check_dtype, check_target, dtype_names, files_in
from flagai.models.loading import LoadReport, quiet_config
from flagai.models.quiet import quiet_transformers

Layout = Literal["huggingface", "flagai-original", "flagai-trainer"]

LAYOUTS: Final[dict[str, Layout]] = {
    "flagai": "huggingface",  # what flagai writes is a Hugging Face folder
    "huggingface": "huggingface",
    "flagai-original": "flagai-original",
    "flagai-trainer": "flagai-trainer",
}
"""`flagai-original`: what the original's AutoLoader reads; `flagai-trainer`: what its Trainer writes"""

_OURS: Final = ("task.json", "head.safetensors")
_LATEST: Final = "latest_iteration.txt"


def convert(
    source: str | Path, target: str | Path, *, layout: str, shards: int | None = None, dtype: str = "keep"
) -> Converted:
    """Write the model in `source` as `layout` into the new folder `target`, tokenizer files with it.

    Args:
        layout: a key of `LAYOUTS`.
        shards: None; only a GLM is written in several files.
        dtype: "keep", "fp32", "fp16" or "bf16".
    Errors: `CheckpointError` (source), `ConfigError`, `ModelError` (what cannot be done), `OutputError` (target).
    """
    source, target = Path(source), Path(target)
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS, where="--layout")
    check_dtype(dtype)
    if shards is not None:
        raise ConfigError("--shards is for GLM alone", where="--shards", fix="leave it out")
    check_target(target, source)
    info = verify_weights(source)
    model, dropped = _load(info, DTYPES.get(dtype))
    kind = LAYOUTS[layout]
    with whole_folder(target) as folder:
        place = folder / "1" if kind == "flagai-trainer" else folder
        place.mkdir(exist_ok=True)
        state = _write(model, place, kind)
        _copy_beside(source, info.folder, place)
        if kind == "flagai-trainer":
            (folder / _LATEST).write_text("1\t1", "utf-8")
    return Converted(
        source=_name(info),
        target=kind,
        folder=target,
        files=files_in(target),
        num_tensors=len(state),
        num_parameters=sum(tensor.numel() for tensor in state.values()),
        dtypes=dtype_names({tensor.dtype for tensor in state.values()}),
        left_out=(*dropped, *(name for name in _OURS if (info.folder / name).is_file())),
    )


def describe(folder: str | Path) -> dict[str, Any]:
    """What `flagai ckpt inspect` shows of a folder: plain values.

    Errors: `CheckpointError` for weights that are missing, damaged or unsafe.
    """
    info = verify_weights(folder)
    config = read_json(info.folder / "config.json")
    state = read_state_dict(info.folder)
    return {
        "layout": _name(info),
        "family": _family(info, config),
        "folder": str(info.folder),
        "files": [file.name for file in info.files],
        "tensors": len(state),
        "parameters": sum(map(prod, (info.shapes or {}).values())),
        "bytes": sum(file.stat().st_size for file in info.files),
        "dtype": list(dtype_names({tensor.dtype for tensor in state.values()})),
    }


def _name(info: WeightsInfo) -> str:
    return "flagai-original" if info.layout == "flagai" else info.layout


def _family(info: WeightsInfo, config: Mapping[str, Any]) -> str:
    return legacy.family_of(info.shapes or {}, config) or str(config.get("model_type", "unknown"))


def _load(info: WeightsInfo, dtype: torch.dtype | None) -> tuple[Any, tuple[str, ...]]:
    """The model of a folder with all its weights, and the tensors of the original that it has no place for."""
    import transformers

    raw, where = read_json(info.folder / "config.json"), str(info.folder)
    state = read_state_dict(info.folder)
    dropped: tuple[str, ...] = ()
    if info.layout == "flagai":
        made = legacy.to_huggingface(state, raw, folder=info.folder)
        if made.head:
            raise ModelError(
                f"the checkpoint has a head of the original's own ({made.kind})",
                expected="a head that transformers has",
                fix=f'load it with AutoLoader("{made.kind}", …) and save that',
                where=where,
            )
        raw, state, dropped = made.config, made.body, made.dropped
    names = raw.get("architectures") or ()
    kind = next((found for name in names if (found := getattr(transformers, str(name), None)) is not None), None)
    if kind is None:
        raise CheckpointError("config.json does not say of which class the model is", where=where)
    options = {"config": quiet_config(raw, where), "dtype": dtype or next(iter(state.values())).dtype}
    with quiet_transformers():
        model, report = kind.from_pretrained(None, state_dict=state, output_loading_info=True, **options)
    checked = LoadReport.of(report)
    checked.check(model, fresh=False, where=where)
    return model.eval(), (*dropped, *checked.unexpected)


def _write(model: Any, place: Path, layout: Layout) -> Mapping[str, torch.Tensor]:
    """Write the model's own files; what was written."""
    if layout == "huggingface":
        with quiet_transformers():
            model.save_pretrained(place)
        return dict(model.named_parameters())
    state, config = legacy.export(model, form="trainer" if layout == "flagai-trainer" else "autoloader")
    legacy.write_files(state, config, place)
    return state


def _copy_beside(source: Path, weights: Path, target: Path) -> None:
    """Tokenizer files; a vocab.txt is made where only a tokenizer.json has it."""
    for pattern in BESIDE:
        for file in (one for place in dict.fromkeys((source, weights)) for one in sorted(place.glob(pattern))):
            if not (target / file.name).exists():
                shutil.copyfile(file, target / file.name)
    if (target / "tokenizer.json").is_file() and not (target / "vocab.txt").is_file():
        values = read_json(target / "tokenizer.json").get("model") or {}
        if values.get("type") == "WordPiece":
            ordered = sorted(values["vocab"].items(), key=lambda item: item[1])
            (target / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in ordered), "utf-8")
