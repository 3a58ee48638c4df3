"""A resolved configuration → folder, tokenizer, task and model, each checked before the next. Knows no data and no loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagai.auto import id2label, load_saved, locate, most_tokens, settle
from flagai.config import RunConfig
from flagai.errors import ConfigError
from flagai.tasks.base import Task
from flagai.tasks.table import make_task
from flagai.train.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What a model is made from; `folder` is None for random weights and for a model that was handed over."""

    folder: Path | None
    tokenizer: Any
    task: Task


def ingredients(config: RunConfig, *, offline: bool, model: Any = None, tokenizer: Any = None, task: Task | None = None) -> Ingredients:
    """Tokenizer and task of a run; weights are verified but not yet loaded.

    Raises:
        ConfigError: no model named, or `data.max_length` beyond the model.
        CheckpointError: the weights on disk are damaged.
        ModelError: the tokenizer does not fit the model.
    """
    from flagai.models.build import read_config
    from flagai.models.checkpoints import tokenizer_fits, verify_weights
    from flagai.models.loading import quiet_config
    from flagai.models.tokenizers import build_tokenizer

    folder = None
    if model is not None:
        hf_config = model.config
    elif config.model.config is not None:
        hf_config = quiet_config(config.model.config, "model.config")
    else:
        folder = _folder(config, offline)
        verify_weights(folder)
        hf_config = read_config(folder)
    if tokenizer is None:
        tokenizer = build_tokenizer(_tokenizer_folder(config, folder, offline))
    tokenizer_fits(tokenizer, hf_config)
    if task is None:
        task = _task(config, folder, tokenizer, most_tokens(tokenizer, hf_config))
    return Ingredients(folder, tokenizer, task)


def new_model(config: RunConfig, parts: Ingredients) -> Any:
    """The model with the task's head, from pretrained or from random weights, with adapters where asked for."""
    from flagai.models.build import build_from_config, build_model
    from flagai.models.lora import Base, add_lora

    head, names, seed = parts.task.head(), id2label(parts.task), config.train.seed
    pad = parts.tokenizer.pad_token_id
    if parts.folder is not None:
        model = build_model(parts.folder, head, id2label=names, pad_token_id=pad, fresh_head=True, seed=seed)
    else:
        assert config.model.config is not None
        model = build_from_config(config.model.config, head, id2label=names, pad_token_id=pad, seed=seed)
    if (lora := config.model.lora) is None:
        return model
    if parts.folder is None:
        raise ConfigError("adapters need pretrained weights", where="model.lora", fix="set model.name, or remove lora")
    base = Base.of(parts.folder, name=_findable(config), revision=config.model.revision)
    return add_lora(model, **lora.model_dump(), base=base, seed=seed)


def _findable(config: RunConfig) -> str | None:
    """The hub id that others find the base by; None keeps the folder's path."""
    from flagai.models.zoo import find

    name = config.model.name or ""
    if Path(name).exists():
        return None
    entry = find(name)
    return name if entry is None or entry.huggingface is None or entry.name == "all-MiniLM-L6-v2" else entry.huggingface


def saved_model(checkpoint: Checkpoint, *, offline: bool) -> Any:
    """The model of a checkpoint, bit for bit."""
    return load_saved(checkpoint.folder, trainable=True, offline=offline).model


def _folder(config: RunConfig, offline: bool) -> Path:
    if config.model.name is None:
        raise ConfigError(
            "no model is named",
            where="model",
            expected="a name of `flagai models`, a folder or a hub id",
            fix="set model, for instance model=all-MiniLM-L6-v2",
        )
    return locate(config.model.name, revision=config.model.revision, source=config.model.source, offline=offline)


def _tokenizer_folder(config: RunConfig, folder: Path | None, offline: bool) -> Path:
    if config.model.tokenizer is not None:
        return locate(config.model.tokenizer, source=config.model.source, offline=offline)
    if folder is None:
        raise ConfigError(
            "random weights need a tokenizer",
            where="model.tokenizer",
            expected="a folder with tokenizer.json or vocab.txt",
            fix="set model.tokenizer",
        )
    return folder


def _task(config: RunConfig, folder: Path | None, tokenizer: Any, limit: int) -> Task:
    wanted = config.data.max_length
    if wanted is not None and wanted > limit:
        raise ConfigError(
            f"data.max_length is {wanted}, but the model reads {limit} tokens",
            where="data.max_length",
            expected=f"at most {limit}",
            fix=f"set data.max_length={limit}, and data.stride to read longer texts in windows",
        )
    options = settle(config.task, folder)
    if options.pooling is None and config.model.pooling is not None:
        options = options.model_copy(update={"pooling": config.model.pooling})
    task = make_task(options, tokenizer, max_length=wanted or limit, stride=config.data.stride)
    task.may_cut = wanted is not None
    return task
