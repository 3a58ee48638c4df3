"""Weights of a GLM in any layout → our model, tensor by tensor onto a model that has no memory before.

It knows no task. Besides the model it needs the memory of one tensor; see `sources.py` for how files are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from flagai.errors import ModelError
from flagai.hub import resolve
from flagai.models.glm.folders import config_of, find_glm
from flagai.models.glm.layouts import POSITIONS, our_names
from flagai.models.glm.sources import Source, open_glm
from flagai.models.loading import LoadReport, auto_class
from flagai.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from flagai.models.glm.configuration import GLMConfig

_TABLES: Final = tuple(name for bare in POSITIONS for name in our_names(bare))
_SEED: Final = 42
_TRUE_ANYWAY: Final = {
    *("cache_dir", "force_download", "local_files_only", "revision", "token"),
    *("low_cpu_mem_usage", "trust_remote_code", "use_safetensors", "weights_only"),
}
"""what people ask transformers for beside these folders: nothing is fetched or run here, whatever is said"""


def read_weights(folder: str | Path, *, heads: bool = True) -> Iterator[tuple[str, Tensor]]:
    """(our name, tensor) for every tensor of a folder in any layout, one at a time, on the CPU, as they are stored.

    Everything is checked before the first one comes; see `Source` for the errors. Each tensor has memory of its own.
    """
    return weights_of(open_glm(folder, heads=heads))


def weights_of(source: Source) -> Iterator[tuple[str, Tensor]]:
    """As `read_weights`, of a folder that is open already."""
    try:
        for name in source.names:
            yield from zip(our_names(name), source.read_parts(name), strict=True)
    finally:
        source.close()


def load_glm(
    folder: str | Path,
    kind: str | type[Any] = "conditional-generation",
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    max_sequence_length: int | None = None,
    seed: int = _SEED,
) -> Any:
    """A GLM from a folder in any layout, in evaluation mode.

    Args:
        kind: a kind of body ("conditional-generation", "sequence-classification", "encoder", …) or a class. Weights of
            a classifier are read where the class has a place for them; where the folder has none they start anew.
        dtype: of the weights, fp32 unless given.
        device: each tensor goes there as it is read.
        max_sequence_length: more positions than the folder has; the tables are extended (see `fill`).
    Errors: `CheckpointError` for weights that are missing, left over, damaged, of different steps, or of another model
        than config.json; `ModelError` for a configuration that cannot be meant.
    """
    source = open_glm(folder)
    config = config_of(source.found, source.sizes)
    if max_sequence_length is not None:
        config.max_sequence_length = max_sequence_length
    cls = auto_class(kind, config, str(folder)) if isinstance(kind, str) else kind
    heads = brings_classifier(source)
    model, report = build_from(source, cls, config, dtype=dtype, device=device, seed=seed, heads=heads)
    model.fresh_parameters = tuple(report.check(model, fresh=True, where=str(folder)))
    return model.eval()


def load_published(
    cls: Any, folder: str | Path, *, config: GLMConfig | None = None, dtype: Any = "auto", **settings: Any
) -> Any:
    """What `cls.from_pretrained(folder)` is for folders of others, whose names transformers cannot match; else None.

    Args:
        config: instead of that of the folder; compared with the weights as well.
        dtype: also by its name; "auto" is what is stored.
        settings: fields of the configuration, `attn_implementation`, and `device_map` where it is one device, by itself
            or as {"": device}.
    Errors: as for `load_glm`; `ModelError` for a setting that means nothing here.
    """
    found = find_glm(folder)
    if found is None or found.layout == "flagai":
        return None
    source = Source(found)
    config = config_of(found, source.sizes) if config is None else config
    device = _device_of(settings.pop("device_map", None))
    dtype = _dtype_of(settings.pop("torch_dtype", None) or dtype)
    attention = settings.pop("attn_implementation", None)
    config = _changed(config, {name: value for name, value in settings.items() if name not in _TRUE_ANYWAY})
    if attention is not None:
        config._attn_implementation = attention
    kind = next(iter(source.dtypes.values())) if dtype is None else dtype
    heads = brings_classifier(source)
    model, report = build_from(source, cls, config, dtype=kind, device=device, heads=heads)
    model.fresh_parameters = tuple(report.check(model, fresh=True, where=str(folder)))
    return model.eval()


def _changed(config: GLMConfig, settings: Mapping[str, Any]) -> GLMConfig:
    """With other values for some of its fields, checked like those of a file."""
    if not settings:
        return config
    if unknown := [name for name in settings if not hasattr(config, name)]:
        raise ModelError(f"a folder of this layout takes no {unknown[0]}", fix="convert it first: flagai ckpt convert")
    try:
        return type(config)(**(config.to_dict() | dict(settings)))
    except (TypeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        told = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        raise ModelError(f"{told}: {str(error).splitlines()[-1].strip()}", expected="fields of GLMConfig") from error


def _device_of(device_map: Any) -> torch.device:
    only: Any = device_map[""] if isinstance(device_map, Mapping) and [*device_map] == [""] else device_map
    try:
        return torch.device("cpu" if only is None else only)
    except (RuntimeError, TypeError) as error:
        raise ModelError(
            f"a folder of this layout takes no device_map {device_map!r}",
            expected='one device, as in "cpu" or {"": "cuda:0"}',
            fix="convert it first: flagai ckpt convert",
        ) from error


def _dtype_of(dtype: Any) -> torch.dtype | None:
    """None for what is stored."""
    if dtype in ("auto", None):
        return None
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ModelError(
            f"the dtype {dtype!r} is none that weights can have", expected='"float32", "bfloat16", "float16" or "auto"'
        )
    return found


def local_folder(name: Any, settings: Mapping[str, Any]) -> Any:
    """The folder of a model by its name, looked for as `settings` of `from_pretrained` say.

    A folder is given back as it is, and so is what only transformers can find: None (the weights come as `state_dict`)
    and part of a repository. Errors: those of `hub.resolve`.
    """
    if name is None or settings.get("subfolder") or Path(name).is_dir():
        return name
    where = {key: settings[key] for key in ("revision", "cache_dir") if key in settings}
    return resolve(name, offline=bool(settings.get("local_files_only")), **where)


@dataclass(frozen=True, kw_only=True)
class GLMReport(LoadReport):
    """What did not match; `fresh_rows` says which rows of the position tables were not in the checkpoint."""

    fresh_rows: tuple[str, ...] = field(default=())

    def check(self, model: Any, *, fresh: bool, where: str) -> list[str]:
        """As for any model, and the fresh rows, as in "transformer.position_embeddings.weight[513:]"."""
        return [*super().check(model, fresh=fresh, where=where), *self.fresh_rows]


def build_from(
    source: Source,
    cls: Any,
    config: GLMConfig,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    seed: int = _SEED,
    heads: bool = True,
) -> tuple[Any, GLMReport]:
    """A model of the class `cls` filled from a source, and what did not match.

    Args:
        heads: whether layers of a classifier are taken from the source; else they start from `seed`.
    """
    _refuse_longer_tables(source, config)
    config.dtype = dtype or torch.float32
    with torch.device("meta"), quiet_transformers():
        model = cls(config)
        model.config._name_or_path = str(source.found.folder)
        if (source.found.folder / "generation_config.json").is_file() and model.can_generate():
            model.generation_config = GenerationConfig.from_pretrained(str(source.found.folder))
    report = fill(model, weights_of(source), dtype=config.dtype, device=device, seed=seed, heads=heads)
    return model, report


def brings_classifier(source: Source) -> bool:
    """Whether the classifier that lies in a folder is meant: files of the hub's glm-2b carry layers of none."""
    stray = source.found.layout == "huggingface"
    kinds = (source.found.config or {}).get("architectures") or []
    return not stray or any("Classification" in str(kind) for kind in kinds)


def fill(
    model: Any,
    weights: Iterable[tuple[str, Tensor]],
    *,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    seed: int = _SEED,
    heads: bool = True,
) -> GLMReport:
    """Give a model on the meta device its weights by our names, each as it comes; the rest starts from `seed`.

    A position table with fewer rows than the model's fills its first rows, the others are drawn from
    N(0, initializer_range), as THUDM does for inputs that are longer than those of the pre-training.
    """
    bare = model.base_model is model
    slots = dict(model.named_parameters())
    unexpected, mismatched, fresh_rows = [], {}, []
    for name, tensor in weights:
        key = name.removeprefix("glm.") if bare else name
        is_head = not name.startswith("glm.")
        if key not in slots or (is_head and not heads):
            unexpected.append(name)
            continue
        tensor = tensor.to(device=device, dtype=dtype)
        if name in _TABLES and tensor.shape[0] < slots[key].shape[0]:
            fresh_rows.append(f"{key}[{tensor.shape[0]}:]")
            tensor = _extended(tensor, slots[key].shape[0], model.config.initializer_range, seed, name)
        if tensor.shape != slots[key].shape:
            mismatched[key] = f"{list(tensor.shape)} in the file, {list(slots[key].shape)} in the model"
            continue
        _assign(model, key, tensor)
    missing = _start_the_rest(model, slots, device=device, dtype=dtype, seed=seed)
    return GLMReport(
        missing=tuple(sorted(missing - mismatched.keys())),
        unexpected=tuple(sorted(unexpected)),
        mismatched=mismatched,
        fresh_rows=tuple(fresh_rows),
    )


def _refuse_longer_tables(source: Source, config: GLMConfig) -> None:
    if config.max_sequence_length < source.sizes.max_sequence_length:
        raise ModelError(
            f"max_sequence_length is {config.max_sequence_length}, the position tables of the weights are for "
            f"{source.sizes.max_sequence_length}",
            expected=f"{source.sizes.max_sequence_length} or more: tables can be extended, not cut",
            fix="leave max_sequence_length out",
            where=str(source.found.folder),
        )


def _extended(table: Tensor, rows: int, std: float, seed: int, name: str) -> Tensor:
    """A table with more rows; the new ones depend on the seed and the table, never on a global random state."""
    generator = torch.Generator().manual_seed(seed + _TABLES.index(name))
    new = torch.randn(rows - table.shape[0], table.shape[1], generator=generator) * std
    return torch.cat([table, new.to(device=table.device, dtype=table.dtype)])


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    place, _, last = name.rpartition(".")
    setattr(model.get_submodule(place), last, nn.Parameter(tensor, requires_grad=True))


def _start_the_rest(
    model: Any, slots: Mapping[str, Any], *, device: str | torch.device, dtype: torch.dtype, seed: int
) -> set[str]:
    """Tie what is tied, then start what still has no memory as a new model does; the names of what was started."""
    model.tie_weights()
    missing = {name for name, parameter in model.named_parameters() if parameter.is_meta}
    places = {name.rpartition(".")[0] for name in missing}
    for name in missing:
        _assign(model, name, torch.empty(slots[name].shape, dtype=dtype, device=device))
    # The classes keep no buffers; one that came would have to be computed here.
    assert not list(model.buffers()), "a buffer of a GLM has no value yet"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for place in sorted(places):
            model._init_weights(model.get_submodule(place))
    return missing
