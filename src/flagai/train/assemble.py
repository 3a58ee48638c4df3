"""A configuration → folder, tokenizer, task and model, each checked before the next. Knows no loop."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagai.auto import id2label, load_saved, locate, most_tokens, settle
from flagai.config import RunConfig
from flagai.data.record import Record
from flagai.errors import ConfigError, ModelError
from flagai.generate.options import make_options
from flagai.models.checkpoints import weights_sha256
from flagai.tasks.base import Task
from flagai.tasks.decoding import Decoding
from flagai.tasks.generation import GenerationTask
from flagai.tasks.table import find_row, make_task
from flagai.train.checkpoint import Checkpoint
from flagai.train.prepare import read_split, training_file

CHARACTERS = "characters"


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What a model is made from; `folder` is None for random weights and for a model that was handed over."""

    folder: Path | None
    tokenizer: Any
    task: Task


def ingredients(
    config: RunConfig, *, offline: bool, model: Any = None, tokenizer: Any = None, task: Task | None = None
) -> Ingredients:
    """Tokenizer and task of a run; weights are verified but not yet loaded.

    Raises:
        ConfigError: no model named, or `data.max_length` beyond the model.
        CheckpointError: the weights on disk are damaged.
        ModelError: the tokenizer does not fit the model.
    """
    from flagai.models.build import read_config
    from flagai.models.checkpoints import tokenizer_fits, verify_weights
    from flagai.models.loading import quiet_config
    from flagai.models.lora import ADAPTER_CONFIG
    from flagai.models.tokenizers import build_tokenizer

    folder = None
    if model is not None:
        hf_config = model.config
    elif config.model.config is not None:
        hf_config = quiet_config(config.model.config, "model.config")
    else:
        folder = _folder(config, offline)
        if (folder / ADAPTER_CONFIG).is_file():
            raise ModelError(
                "the folder holds adapters alone",
                where=str(folder),
                expected="a whole model",
                fix=f"merge them first: flagai merge {folder} {folder}-merged",
            )
        verify_weights(folder)
        hf_config = read_config(folder)
    if tokenizer is None and config.model.tokenizer == CHARACTERS:
        tokenizer = _from_characters(config)
    elif tokenizer is None:
        tokenizer = build_tokenizer(_tokenizer_folder(config, folder, offline))
    if model is None and folder is None:
        hf_config.vocab_size = len(tokenizer)
    tokenizer_fits(tokenizer, hf_config, needs_pad=not find_row(config.task.name).writes)
    if task is None:
        task = _task(config, folder, tokenizer, hf_config)
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
        size = len(parts.tokenizer)
        model = build_from_config(
            config.model.config, head, id2label=names, pad_token_id=pad, vocab_size=size, seed=seed
        )
    if (lora := config.model.lora) is None:
        return model
    if parts.folder is None:
        raise ConfigError("adapters need pretrained weights", where="model.lora", fix="set model.name, or remove lora")
    base = Base.of(parts.folder, name=_findable(config), revision=config.model.revision)
    return add_lora(model, **lora.model_dump(), base=base, seed=seed)


def _findable(config: RunConfig) -> str | None:
    """The name or hub id that others find the base by; None for a local folder."""
    from flagai.models.zoo import find

    name = config.model.name or ""
    if Path(name).exists():
        return None
    entry = find(name)
    return name if entry is None or entry.huggingface is None or entry.name == "all-MiniLM-L6-v2" else entry.huggingface


def origin(config: RunConfig, parts: Ingredients) -> tuple[str, str]:
    """Where the weights came from, in words or as a hub id, and the sha256 of them ("" for random ones)."""
    if parts.folder is None:
        return "random weights" if config.model.config is not None else "a model of your own", ""
    return _findable(config) or f"local folder {parts.folder.name}", weights_sha256(parts.folder)


def saved_model(checkpoint: Checkpoint, *, offline: bool) -> Any:
    """The model of a checkpoint, bit for bit."""
    return load_saved(checkpoint.folder, trainable=True, offline=offline).model


def _from_characters(config: RunConfig) -> Any:
    """A tokenizer of the characters of the training texts, for a model that starts from random weights."""
    from flagai.models.tokenizers import character_tokenizer

    if config.model.config is None:
        raise ConfigError(
            "a tokenizer of characters does not fit pretrained weights",
            where="model.tokenizer",
            expected="model.config (random weights)",
            fix="remove model.tokenizer",
        )
    path = training_file(config)
    kind = find_row(config.task.name).kind
    # Whether labels may be missing is the task's to say, and it is asked once there is a tokenizer.
    records = read_split(config.data, path, kind, "train", label_required=False)
    texts = [text for record in records for text in (record.text, *(_targets(record) if kind == "target" else ()))]
    limit = config.model.config.get("max_position_embeddings", 512)
    with tempfile.TemporaryDirectory() as folder:
        return character_tokenizer(texts, folder, model_max_length=limit)


def _targets(record: Record) -> list[str]:
    """What is to be written for a record."""
    label = record.get("label")
    return [text for text in (label if isinstance(label, list) else [label]) if isinstance(text, str)]


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
            expected="a folder with tokenizer.json or vocab.txt, or `characters` for those of the training texts",
            fix="set model.tokenizer",
        )
    return folder


def _task(config: RunConfig, folder: Path | None, tokenizer: Any, hf_config: Any) -> Task:
    limit, wanted = most_tokens(tokenizer, hf_config), config.data.max_length
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
    task = make_task(options, tokenizer, max_length=wanted or limit, stride=config.data.stride, config=hf_config)
    task.may_cut = wanted is not None
    _set_writing(config, task)
    return task


def _set_writing(config: RunConfig, task: Task) -> None:
    """The settings of a run that only tasks that write understand; an error for others."""
    learns = isinstance(task, GenerationTask)
    if isinstance(task, Decoding) and config.generate:
        task.generation = make_options(config.generate, task.generation)
    if learns and config.data.max_target_length is not None:
        task.max_target_length = config.data.max_target_length
    idle = {
        "generate": bool(config.generate) and not isinstance(task, Decoding),
        "data.max_target_length": config.data.max_target_length is not None and not learns,
        "train.eval_written": config.train.eval_written is not None and not learns,
    }
    for key in (key for key, set_for_nothing in idle.items() if set_for_nothing):
        raise ConfigError(
            f"{key} means nothing to the task {task.options.name!r}, which writes no text", where=key, fix="take it out"
        )
