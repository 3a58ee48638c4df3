"""From a folder (or a configuration alone) and a head to a model in which no parameter is there by accident.

It knows no task: which body and which head comes in as plain words (`HeadSpec`). It runs no code from a model's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch
from torch import nn

from flagai.errors import CheckpointError, ModelError
from flagai.models import legacy, legacy_bert
from flagai.models.checkpoints import (
    WeightsInfo,
    inspect,
    iteration_folder,
    read_json,
    read_state_dict,
    verify_weights,
)
from flagai.models.families import start_of
from flagai.models.glm.folders import config_of, glm_config
from flagai.models.glm.reading import brings_classifier, build_from
from flagai.models.glm.sources import open_glm
from flagai.models.headed import HEAD_FILE, HeadedModel, fill_head, load_head, make_head, save_model
from flagai.models.loading import auto_class, drop_pooler, load_body, quiet_config
from flagai.models.quiet import quiet_transformers
from flagai.models.tokenizers import build_tokenizer, character_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "HeadedModel",
    "build_from_config",
    "build_model",
    "build_tokenizer",
    "character_tokenizer",
    "pooling_of",
    "read_config",
    "save_model",
]

DEFAULT_SEED: Final = 42
_LEGACY: Final = frozenset({"bert", "gpt2", "opt", "t5", "mt5"})
_DROPOUTS: Final = {
    "sequence-classification": ("classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout"),
    "token-classification": ("classifier_dropout", "classifier_dropout_prob"),
}


class Head(Protocol):
    """What is read of a `HeadSpec` (flagai.tasks.base)."""

    @property
    def body(self) -> str:
        """The kind of model, a key of `loading.BODIES`."""
        ...

    @property
    def num_labels(self) -> int:
        """Outputs of the head, 0 for a head without classes."""
        ...

    @property
    def module(self) -> str:
        """Dotted name of a head of ours, as in "flagai.models.heads:CRF"; "" for Hugging Face's own."""
        ...

    @property
    def options(self) -> Mapping[str, Any]:
        """Keyword arguments of `module`."""
        ...


def build_model(
    folder: str | Path,
    head: Head,
    *,
    dtype: torch.dtype | None = None,
    id2label: Mapping[int, str] | None = None,
    pad_token_id: int | None = None,
    fresh_head: bool | None = None,
    seed: int = DEFAULT_SEED,
) -> PreTrainedModel | HeadedModel:
    """A model with the weights of a folder, in evaluation mode on the CPU.

    Every parameter comes from the checkpoint, except those of a new head: with `fresh_head` (default: whether the
    folder has no `task.json`) the head may be absent there and starts from `seed`; without it, nothing may be missing
    and nothing left over. The names of what started anew are the model's attribute `fresh_parameters`.

    Args:
        folder: a Hugging Face folder, one of the original's BERT or RoBERTa, or a GLM in any layout.
        head: `body` is a key of `loading.BODIES`; `module` names our own head.
        dtype: of the body, fp32 unless given.
        id2label: names of the labels, kept in the configuration.
        pad_token_id: set where the configuration has none (decoders need one to find a text's last token).
    Errors: `CheckpointError` (weights absent, damaged, incomplete, unsafe, of another model), `ModelError` (an
        architecture that cannot be had), `MissingFileError`.
    """
    info = verify_weights(folder)
    if info.layout == "adapter":
        raise ModelError("the folder holds an adapter, not a model", fix="use load_lora", where=str(folder))
    if (info.folder / "adapter_config.json").is_file():
        # transformers would load the base that file names instead of the weights that were verified here.
        raise ModelError(
            "the folder holds a whole model and an adapter's configuration",
            expected="one of them",
            fix="move adapter_config.json out of the folder",
            where=str(info.folder),
        )
    fresh = not (info.folder / "task.json").is_file() if fresh_head is None else fresh_head
    glm = open_glm(folder) if info.layout == "glm" else None
    state, config, converted = _source(info) if glm is None else (None, config_of(glm.found, glm.sizes), None)
    known = fresh is False or _same_labels(config, id2label)
    if not known and converted is None and glm is None:
        state = _without_head(head.body, config, info, state)
    _label(config, head.num_labels, id2label, pad_token_id)
    _set_dropout(config, head)
    if glm is None:
        body, report = load_body(head.body, config, info.folder, state, dtype=dtype, seed=seed)
    else:
        kind = auto_class(head.body, config, str(info.folder))
        heads = known and (not fresh or brings_classifier(glm))
        body, report = build_from(glm, kind, config, dtype=dtype, seed=seed, heads=heads)
    fresh_names = report.check(body, fresh=fresh, where=str(info.folder))
    if not head.module:
        if not fresh and (info.folder / HEAD_FILE).is_file():
            raise CheckpointError(f"the folder has a {HEAD_FILE}, and the task needs none", where=str(info.folder))
        return _finish(body, fresh_names)
    return _with_head(body, head, info, converted, fresh=fresh, known=known, seed=seed, body_names=fresh_names)


def _source(info: WeightsInfo) -> tuple[dict[str, torch.Tensor] | None, Any, legacy_bert.Converted | None]:
    """State dict (None: transformers reads the folder's safetensors), configuration, what the original has besides."""
    if info.layout == "flagai":
        raw = read_json(info.folder / "config.json")
        converted = legacy.to_huggingface(read_state_dict(info.folder), raw, folder=info.folder)
        return converted.body, quiet_config(converted.config, str(info.folder)), converted
    config = read_config(info.folder)
    if info.format == "safetensors":
        return None, config, None
    # Memory-mapped tensors must not outlive the file: a later save may overwrite it.
    return {name: tensor.clone() for name, tensor in read_state_dict(info.folder).items()}, config, None


def _with_head(
    body: PreTrainedModel,
    head: Head,
    info: WeightsInfo,
    converted: legacy_bert.Converted | None,
    *,
    fresh: bool,
    known: bool,
    seed: int,
    body_names: list[str],
) -> HeadedModel:
    module = make_head(head.module, _hidden_size(body.config), head.num_labels, dict(head.options), seed)
    names = [f"body.{name}" for name in body_names]
    if converted is not None and _fill_legacy(module, converted, str(info.folder)):
        pass
    elif fresh and not (known and _same_head(module, info.folder)):
        names += [f"head.{name}" for name, _ in module.named_parameters()]
    else:
        load_head(module, info.folder)
    return _finish(HeadedModel(body, module), names)


def _same_labels(config: Any, id2label: Mapping[int, str] | None) -> bool:
    """Whether a head stored with this configuration answers in the labels that are wanted, in their order.

    Names that transformers made up (LABEL_0, …) say nothing, and so does a task without names.
    """
    stored = list((config.id2label or {}).values())
    if id2label is None or all(str(name).startswith("LABEL_") for name in stored):
        return True
    return stored == list(id2label.values())


def _without_head(
    body: str, config: Any, info: WeightsInfo, state: dict[str, torch.Tensor] | None
) -> dict[str, torch.Tensor]:
    """The weights without a stock head: its rows belong to other labels."""
    prefix = f"{auto_class(body, config, str(info.folder)).base_model_prefix}."
    tensors = state if state is not None else read_state_dict(info.folder)
    if not any(name.startswith(prefix) for name in tensors):
        return tensors  # a bare body holds no head
    return {name: tensor.clone() for name, tensor in tensors.items() if name.startswith(prefix)}


def _same_head(module: nn.Module, folder: Path) -> bool:
    """Whether the folder already holds a head of exactly these tensors (then training goes on from it)."""
    file = folder / HEAD_FILE
    if not file.is_file():
        return False
    from flagai.models.safetensors_file import safetensors_header

    return safetensors_header(file) == {name: tuple(t.shape) for name, t in module.state_dict().items()}


def _fill_legacy(module: nn.Module, converted: legacy_bert.Converted, where: str) -> bool:
    kinds = {"ner-crf": "CRF", "ner-gp": "GlobalPointer"}
    if kinds.get(converted.kind) != type(module).__name__:
        return False
    state = dict(module.state_dict()) | converted.head
    if converted.kind == "ner-crf":
        # The original has neither a scale nor start and end scores; a new CRF starts with zeros for these.
        state["transitions"] = converted.head["transitions"] / getattr(module, "transition_scale", 1.0)
    fill_head(module, state, where=where)
    return True


def _finish(model: Any, fresh_names: list[str]) -> Any:
    model.fresh_parameters = tuple(fresh_names)
    return model.eval()


def _hidden_size(config: Any) -> int:
    return config.get_text_config().hidden_size


def read_config(folder: str | Path) -> Any:
    """The Hugging Face configuration of a folder, also of one of the original's; remote code is never run.

    Errors: `MissingFileError` without config.json, `ModelError` for a family transformers does not have.
    """
    if (glm := glm_config(folder)) is not None:
        return glm
    folder = iteration_folder(Path(folder))
    file = folder / "config.json"
    raw = read_json(file)
    if raw.get("model_type", "gpt2") in _LEGACY and (state := _legacy_state(folder, raw)) is not None:
        return quiet_config(legacy.to_huggingface(state, raw, folder=folder).config, str(file))
    return quiet_config(raw, str(file))


def _legacy_state(folder: Path, raw: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
    """The tensors of a folder if they are of the original; None where they are not, or there are none."""
    try:
        if inspect(folder).layout == "huggingface":
            return None  # the headers say so
        state = read_state_dict(folder)
    except CheckpointError:
        return None
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return state if legacy.family_of(shapes, raw) is not None else None


def _label(config: Any, num_labels: int, id2label: Mapping[int, str] | None, pad_token_id: int | None) -> None:
    if id2label is not None:
        config.id2label = {int(number): name for number, name in id2label.items()}
        config.label2id = {name: number for number, name in config.id2label.items()}
    elif num_labels > 0:
        config.num_labels = num_labels
    if getattr(config, "is_encoder_decoder", False) and (start := start_of(config, pad_token_id)) is not None:
        config.decoder_start_token_id = start
    text = config.get_text_config()
    if pad_token_id is not None and getattr(text, "pad_token_id", None) is None:
        text.pad_token_id = pad_token_id


def _set_dropout(config: Any, head: Head) -> None:
    """Families name the dropout before their heads differently; one that has no such setting must not ignore it."""
    value = getattr(head, "dropout", None)
    found = [name for name in _DROPOUTS.get(head.body, ()) if hasattr(config, name)]
    if value is not None and not found:
        raise ModelError(
            f"the family {config.model_type!r} cannot set the dropout before its head",
            expected="no task.dropout",
            fix="take it out",
            where="task.dropout",
        )
    for name in found if value is not None else ():
        setattr(config, name, value)


def build_from_config(
    config: Mapping[str, Any] | str | Path,
    head: Head,
    *,
    seed: int = DEFAULT_SEED,
    dtype: torch.dtype | None = None,
    id2label: Mapping[int, str] | None = None,
    vocab_size: int | None = None,
    pad_token_id: int | None = None,
) -> PreTrainedModel | HeadedModel:
    """A model with random weights, the same for the same seed, in evaluation mode: for training from scratch.

    Args:
        config: a Hugging Face configuration with `model_type`, or the folder or file it lies in.
        vocab_size: rows of the embedding, usually `len(tokenizer)`; replaces what the configuration says.
    Errors: `ModelError` for a family or a setting transformers does not know.
    """
    if isinstance(config, Mapping):
        made = quiet_config(config, "model.config")
    else:
        path = Path(config)
        made = read_config(path.parent if path.is_file() else path)
    if vocab_size is not None:
        made.get_text_config().vocab_size = vocab_size
    _label(made, head.num_labels, id2label, pad_token_id)
    _set_dropout(made, head)
    kind = auto_class(head.body, made, "model.config")
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(seed)
        body = kind._from_config(made, dtype=dtype or torch.float32)
    if head.body == "encoder":
        drop_pooler(body)
    names = [name for name, _ in body.named_parameters()]
    if not head.module:
        return _finish(body, names)
    module = make_head(head.module, _hidden_size(made), head.num_labels, dict(head.options), seed)
    model = HeadedModel(body, module)
    return _finish(model, [name for name, _ in model.named_parameters()])


def pooling_of(folder: str | Path) -> str | None:
    """How a sentence-transformers folder makes one vector of many ("mean" or "cls"); None where it does not say.

    Errors: `ModelError` where the folder wants what flagai has not: another pooling, a layer after it.
    """
    modules = Path(folder) / "modules.json"
    if not modules.is_file():
        return None
    import json

    try:
        rows = json.loads(modules.read_text("utf-8"))
        kinds = {str(row["type"]).rpartition(".")[2]: str(row["path"]) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"no list of modules ({error})", where=str(modules)) from error
    if extra := sorted(kinds.keys() - {"Transformer", "Pooling", "Normalize", "Dropout"}):
        raise ModelError(
            f"the model has {', '.join(extra)} after its encoder; its vectors would be others without",
            expected="Transformer, Pooling and Normalize",
            fix="choose another model, or set model.pooling and remove modules.json to leave the layer out",
            where=str(modules),
        )
    return _pooling(Path(folder) / kinds["Pooling"] / "config.json") if "Pooling" in kinds else None


def _pooling(file: Path) -> str:
    raw = read_json(file)
    modes = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    named = [raw["pooling_mode"]] if isinstance(raw.get("pooling_mode"), str) else []
    on = named or [
        modes.get(key, key) for key, value in raw.items() if key.startswith("pooling_mode_") and value is True
    ]
    if len(on) != 1 or on[0] not in ("mean", "cls"):
        raise ModelError(
            f"the pooling is {' + '.join(on) or 'none'}",
            expected='"mean" or "cls"',
            fix="set model.pooling",
            where=str(file),
        )
    return on[0]
