"""Low-rank adapters through PEFT: put them into a model, save them, load them onto the same base, merge them.

It knows no trainer. Adapters go into the body in place: the model keeps its class, and heads are trained whole.
Source of the method: Hu et al. 2021, "LoRA", section 4.1 (h = W0 x + (alpha / r) B A x).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from flagai import hub
from flagai.errors import (
    CheckpointError,
    ConfigError,
    MissingExtraError,
    MissingFileError,
    ModelError,
    OfflineError,
    OutputError,
)
from flagai.models import zoo
from flagai.models.build import DEFAULT_SEED, Head, build_model
from flagai.models.checkpoints import read_json, weights_sha256
from flagai.models.headed import HEAD_FILE, HeadedModel, load_head, save_head
from flagai.models.safetensors_file import read_safetensors

ADAPTER_FILE: Final = "adapter_model.safetensors"
ADAPTER_CONFIG: Final = "adapter_config.json"
_NAME: Final = "default"
_PREFIX: Final = "base_model.model."
_HASH: Final = "base_weights_sha256"
_ATTENTION: Final = re.compile(r"(^|\.)[^.]*(attn|attention)[^.]*(\.|$)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model an adapter belongs to: a name to find it by, and the hash that says whether it is the same."""

    name: str
    sha256: str
    revision: str | None = None

    @classmethod
    def of(cls, folder: str | Path, *, name: str | None = None, revision: str | None = None) -> Base:
        """Of a local folder; `name` is what others can find it by (a hub id), the folder's path unless given."""
        return cls(name=name or str(Path(folder).resolve()), sha256=weights_sha256(folder), revision=revision)


@dataclass(frozen=True, kw_only=True)
class _Injected:
    """What `save_lora` must know; hung on the model by `add_lora`."""

    config: Any
    base: Base
    whole: tuple[str, ...]
    """parameters of the body that are trained and saved whole"""


def add_lora(
    model: Any,
    *,
    r: int,
    alpha: float,
    dropout: float = 0.0,
    target_modules: Sequence[str] | None = None,
    base: Base,
    seed: int = DEFAULT_SEED,
) -> Any:
    """Put adapters into a model (changed in place and returned); only they and the head stay trainable.

    Args:
        model: from `build_model`, stock or with a head of ours.
        r: rank; the adapters are added with the factor alpha / r.
        target_modules: ends of dotted names of linear layers; every linear layer of the attention unless given.
        base: the weights the model was built from.
        seed: of the adapters' random start (A is random, B zero: at first nothing changes).
    Errors: `MissingExtraError` without PEFT, `ConfigError` where no layer has such a name.
    """
    peft = _peft()
    body = _body(model)
    if is_lora(model):
        raise ModelError("the model has adapters already", fix="merge them first (merge_lora)")
    chosen = sorted(target_modules) if target_modules else attention_layers(body)
    whole = _whole(model, body)
    own = sorted({name.rpartition(".")[0] for name in whole})
    config = peft.LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(chosen),
        exclude_modules=own or None,  # layers that are trained whole need no adapter
        base_model_name_or_path=base.name,
        revision=base.revision,
        fan_in_fan_out=_stores_transposed(body, chosen),
        # PEFT warns of keys it does not know at the top level of its file; this mapping it leaves alone.
        auto_mapping={"base_model_class": type(body).__name__, "parent_library": "transformers", _HASH: base.sha256},
        modules_to_save=own or None,
    )
    _inject(peft, body, config, seed)
    model.lora = _Injected(config=config, base=base, whole=tuple(whole))
    _set_trainable(model, trainable=True)
    return model


def _inject(peft: Any, body: nn.Module, config: Any, seed: int) -> None:
    # Heads are unfrozen as they are: PEFT's own wrapper around them would rename their parameters.
    saved, config.modules_to_save = config.modules_to_save, None
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            peft.inject_adapter_in_model(config, body, adapter_name=_NAME)
    except ValueError as error:
        raise ConfigError(
            f"no layer of the model is named {', '.join(sorted(config.target_modules))} ({error})",
            expected=f"ends of names such as {', '.join(linear_layers(body)[:12])}",
            fix="leave target_modules out for all attention layers",
            where="model.lora.target_modules",
        ) from error
    finally:
        config.modules_to_save = saved
    for _, parameter in _adapters(body):
        parameter.data = parameter.data.float()


def is_lora(model: Any) -> bool:
    """Whether a model carries adapters of ours."""
    return isinstance(getattr(model, "lora", None), _Injected)


def linear_layers(body: Any) -> list[str]:
    """Names of the body's linear layers without the number of their block: `attention.self.query`, …"""
    return sorted(
        {re.sub(r"^.*\.\d+\.", "", name) for name, module in _base(body).named_modules() if _is_linear(module)}
    )


def attention_layers(body: Any) -> list[str]:
    """The linear layers that belong to an attention. Errors: `ModelError` where no name says so."""
    found = [name for name in linear_layers(body) if _ATTENTION.search(name)]
    if not found:
        raise ModelError(
            f"no layer of the family {body.config.model_type!r} calls itself attention",
            expected=f"model.lora.target_modules, some of: {', '.join(linear_layers(body)[:12])}",
            fix="name the layers",
        )
    return found


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _stores_transposed(body: Any, chosen: Iterable[str]) -> bool:
    ends = tuple(f".{name}" for name in chosen)
    hit = [type(module).__name__ for name, module in body.named_modules() if f".{name}".endswith(ends)]
    return bool(hit) and set(hit) == {"Conv1D"}


def _body(model: Any) -> Any:
    return model.body if isinstance(model, HeadedModel) else model


def _base(body: Any) -> nn.Module:
    return body.base_model


def _whole(model: Any, body: Any) -> list[str]:
    """Parameters of the body to train whole: everything outside its base, and what started anew inside it."""
    inner = {id(parameter) for parameter in _base(body).parameters()}
    new = {name.removeprefix("body.") for name in getattr(model, "fresh_parameters", ())}
    if len(new) == sum(1 for _ in model.parameters()):  # from scratch: adapters on random weights make no sense
        raise ModelError("the model starts from random weights", fix="train it whole: leave model.lora out")
    return [name for name, p in body.named_parameters() if id(p) not in inner or name in new]


def _adapters(body: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in body.named_parameters():
        if ".lora_" in name:
            yield name.replace(f".{_NAME}", ""), parameter


def _set_trainable(model: Any, *, trainable: bool) -> None:
    whole = set(model.lora.whole)
    for name, parameter in _body(model).named_parameters():
        parameter.requires_grad_(trainable and (".lora_" in name or name in whole))
    if isinstance(model, HeadedModel):
        model.head.requires_grad_(trainable)


# on disk


def save_lora(model: Any, folder: str | Path) -> None:
    """Write the adapters, and the layers trained whole, in PEFT's own format; a head of ours as `head.safetensors`.

    Errors: `ModelError` for a model without adapters, `OutputError` where the files cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if not is_lora(model):
        raise ModelError("the model has no adapters", fix="save it whole (save_pretrained)")
    target = Path(folder)
    tensors = {f"{_PREFIX}{name}": p.detach().cpu().contiguous() for name, p in _saved(model).items()}
    try:
        target.mkdir(parents=True, exist_ok=True)
        save_file(tensors, target / ADAPTER_FILE, metadata={"format": "pt"})
        model.lora.config.save_pretrained(str(target))
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"cannot write the adapter ({error})", fix="check free space and rights", where=str(target)
        ) from error
    if isinstance(model, HeadedModel):
        save_head(model.head, target)


def adapter_name(name: str) -> str:
    """The name in the adapter's file of a parameter of the body: an adapter's, or that of a layer trained whole."""
    return f"{_PREFIX}{name.replace(f'.{_NAME}', '') if '.lora_' in name else name}"


def saved_whole(model: Any) -> frozenset[str]:
    """The body's parameters without adapters that an adapter's file holds nevertheless: new heads."""
    return frozenset(model.lora.whole)


def _saved(model: Any) -> dict[str, Tensor]:
    body = _body(model)
    parameters: dict[str, Tensor] = dict(body.named_parameters())
    found: dict[str, Tensor] = {name: parameters[name] for name in model.lora.whole}
    found.update(_adapters(body))
    return found


def load_lora(
    folder: str | Path,
    head: Head,
    *,
    base_folder: str | Path | None = None,
    offline: bool = False,
    trainable: bool = False,
    dtype: torch.dtype | None = None,
    id2label: Mapping[int, str] | None = None,
    pad_token_id: int | None = None,
) -> Any:
    """The base model with a saved adapter on it, in evaluation mode.

    Args:
        folder: written by `save_lora`.
        head: as for `build_model`.
        base_folder: where the base lies, if it is not to be found by the name in adapter_config.json.
        trainable: whether training is to continue.
    Errors: `CheckpointError` where the base has other weights than the adapter was trained on, or tensors are missing
        or left over; those of `hub.resolve` and `build_model`.
    """
    peft = _peft()
    folder = Path(folder)
    raw = read_json(folder / ADAPTER_CONFIG)
    base = _read_base(raw, folder)
    where = Path(base_folder) if base_folder else _find_base(base, folder, offline)
    _check_same(base, where, folder)
    model: Any = build_model(where, head, dtype=dtype, id2label=id2label, pad_token_id=pad_token_id, fresh_head=True)
    body = _body(model)
    config = peft.LoraConfig.from_pretrained(str(folder))
    config.inference_mode = False
    _inject(peft, body, config, DEFAULT_SEED)
    model.lora = _Injected(config=config, base=base, whole=tuple(_whole_of(config, body)))
    _fill(_saved(model), folder)
    if isinstance(model, HeadedModel):
        load_head(model.head, folder)
    elif (folder / HEAD_FILE).is_file():
        raise CheckpointError(f"the folder has a {HEAD_FILE}, and the task needs none", where=str(folder))
    model.fresh_parameters = ()
    _set_trainable(model, trainable=trainable)
    return model.eval()


def adapter_base(folder: str | Path) -> Base:
    """Which base an adapter folder belongs to. Errors: `CheckpointError` where it does not say."""
    folder = Path(folder)
    return _read_base(read_json(folder / ADAPTER_CONFIG), folder)


def _read_base(raw: Mapping[str, Any], folder: Path) -> Base:
    sha = (raw.get("auto_mapping") or {}).get(_HASH)
    name = raw.get("base_model_name_or_path")
    if raw.get("peft_type") != "LORA" or not isinstance(sha, str) or not name:
        raise CheckpointError(
            "the adapter does not say which weights it was trained on",
            expected="a LoRA adapter saved by flagai",
            fix="load an adapter of another program with PEFT, merge it there and save the whole model",
            where=str(folder / ADAPTER_CONFIG),
        )
    return Base(name=str(name), sha256=sha, revision=raw.get("revision"))


def _find_base(base: Base, folder: Path, offline: bool) -> Path:
    entry = zoo.find(base.name)
    name = entry.huggingface if entry and entry.huggingface else base.name
    revision = None if Path(name).is_dir() else base.revision
    twin = entry.modelscope if entry else None
    try:
        return hub.resolve(name, revision=revision, offline=offline, modelscope_name=twin)
    except (MissingFileError, OfflineError) as error:
        raise type(error)(
            f"the base model of the adapter is not to be had: {error.found}",
            expected=f"the weights with sha256 {base.sha256}",
            fix="put them there, or write where they are into base_model_name_or_path",
            where=str(folder / ADAPTER_CONFIG),
        ) from error


def _check_same(base: Base, where: Path, folder: Path) -> None:
    found = weights_sha256(where)
    if found != base.sha256:
        raise CheckpointError(
            f"the adapter was trained on other weights than those in {where} (sha256 {found})",
            expected=f"{base.name} with sha256 {base.sha256}",
            fix="name the folder of the base the adapter was trained on",
            where=str(folder),
        )


def _whole_of(config: Any, body: nn.Module) -> list[str]:
    modules = set(config.modules_to_save or ())
    return [name for name, _ in body.named_parameters() if name.rpartition(".")[0] in modules and ".lora_" not in name]


def _fill(parameters: Mapping[str, Tensor], folder: Path) -> None:
    found = {name.removeprefix(_PREFIX): t for name, t in read_safetensors(folder / ADAPTER_FILE).items()}
    missing, extra = sorted(parameters.keys() - found.keys()), sorted(found.keys() - parameters.keys())
    wrong = [name for name in parameters.keys() & found.keys() if parameters[name].shape != found[name].shape]
    if missing or extra or wrong:
        raise CheckpointError(
            f"the adapter does not fit: {len(missing)} tensors missing {missing[:4]}, {len(extra)} left over "
            f"{extra[:4]}, {len(wrong)} of another shape {sorted(wrong)[:4]}",
            fix="labels and options of the task must be those of the saved adapter",
            where=str(folder / ADAPTER_FILE),
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(found[name])


@torch.no_grad()
def merge_lora(model: Any) -> Any:
    """Add the adapters to the weights and take them out (in place): a plain model again, all of it trainable.

    Errors: `CheckpointError` where the sum is not finite.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not is_lora(model):
        raise ModelError("the model has no adapters to merge")
    body = _body(model)
    for name, module in [pair for pair in body.named_modules() if isinstance(pair[1], BaseTunerLayer)]:
        layer: Any = module
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise CheckpointError(f"the merged weights of {name} are not finite", where=name) from error
        parent, _, child = name.rpartition(".")
        setattr(body.get_submodule(parent), child, layer.get_base_layer())
    body.__dict__.pop("peft_config", None)
    del model.lora
    model.requires_grad_(True)
    return model


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError.for_package("peft", "lora") from error
    return peft
