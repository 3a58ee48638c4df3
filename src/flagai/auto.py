"""Names and folders → model, tokenizer and task that belong together, and back to a folder. Knows no trainer."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagai import hub
from flagai.config import TaskConfig
from flagai.errors import CheckpointError, ConfigError, MissingFileError, ModelError, unknown_name
from flagai.tasks.base import Task
from flagai.tasks.saved import FILE, read_task_json, task_from_json, task_to_json
from flagai.tasks.table import find_row, make_task

_NO_LIMIT = 1_000_000  # tokenizers say "no limit" with a very large number
_DEFAULT_LENGTH = 512
_BUNDLED = "all-MiniLM-L6-v2"
_STATUS = "status.json"  # in the folder of every run, see train/run_folder.py
_WRITE = ("conditional-generation", "generation")  # kinds of bodies of tasks that write


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with its tokenizer and, where it has one, its task."""

    model: Any
    tokenizer: Any
    task: Task | None


def locate(name: str, *, revision: str | None = None, source: hub.Source = "auto", offline: bool = False) -> Path:
    """The local folder of a name of the original, a bundled model, a folder (a run's too) or a hub id."""
    folder = _locate(name, revision, source, offline)
    return trained_folder(folder) if (folder / _STATUS).is_file() else folder


def trained_folder(folder: str | Path) -> Path:
    """The trained folder a path means: itself, or `final` in the folder of a run.

    Raises:
        MissingFileError: there is no such folder, or no trained model in it; an unfinished run says so.
    """
    path = Path(folder).expanduser()
    for candidate in (path, path / "final"):
        if (candidate / FILE).is_file():
            return candidate
    if _unfinished(path):
        raise MissingFileError(
            "the run is not finished",
            where=str(path),
            expected="<output>/final of a finished run",
            fix="the same `flagai train …` continues it",
        )
    raise MissingFileError(
        "no trained model is here" if path.exists() else "there is no such folder",
        where=str(path),
        expected="<output>/final of a finished run, with its task.json",
        fix="train one: flagai train run.yaml" if path.exists() else "check the path, or train: flagai train run.yaml",
    )


def _unfinished(path: Path) -> bool:
    try:
        status = json.loads((path / _STATUS).read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return status != "finished"


def _locate(name: str, revision: str | None, source: hub.Source, offline: bool) -> Path:
    from flagai.models.zoo import find, names

    entry = None if Path(name).exists() else find(name)
    if entry is None:
        if "/" not in name and not Path(name).exists():
            raise unknown_name("model", name, names(), where="model.name")
        return hub.resolve(name, revision=revision, source=source, offline=offline)
    if not entry.runs:
        raise ModelError(f"this version does not run {entry.name}: {entry.note}", where="model.name")
    if entry.name == _BUNDLED:
        return hub.resolve(entry.name, revision=revision, source=source, offline=offline)
    return hub.resolve(
        entry.huggingface or entry.name,
        revision=revision,
        source=source,
        offline=offline,
        modelscope_name=entry.modelscope,
    )


def settle(options: TaskConfig, folder: Path | None) -> TaskConfig:
    """The task options with `auto` decided by the model: a sentence-embedding model keeps its pooling and cosine."""
    from flagai.models.build import pooling_of

    row, update = find_row(options.name), {}
    pooling = pooling_of(folder) if folder is not None else None
    if row.target.endswith("Classification") and not options.regression and options.head == "auto":
        cosine = pooling is not None and not options.multi_label and row.target.endswith(":Classification")
        update = {"head": "cosine", "pooling": options.pooling or pooling} if cosine else {"head": "linear"}
    if row.target.endswith(":EmbeddingTask") and options.pooling is None and pooling is not None:
        update = {"pooling": pooling}
    return options.model_copy(update=update)


def most_tokens(tokenizer: Any, config: Any) -> int:
    """The longest input the model was made for, special tokens counted."""
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if positions and config.model_type in {"roberta", "xlm-roberta", "camembert"}:
        positions -= (config.pad_token_id or 0) + 1  # these families count positions from behind the pad id
    limits = [limit for limit in (positions, tokenizer.model_max_length) if limit and 0 < limit < _NO_LIMIT]
    return min(limits, default=_DEFAULT_LENGTH)


def load_saved(folder: Path, *, trainable: bool = False, offline: bool = False) -> Loaded:
    """What `save_folder` wrote; `trainable` unfreezes adapters, `offline` keeps the search for their base local.

    Raises:
        CheckpointError: the folder carries no task, or its weights are damaged or incomplete.
        ModelError: the tokenizer is not the one the model was trained with.
    """
    from flagai.models.build import build_model
    from flagai.models.checkpoints import fingerprint
    from flagai.models.lora import ADAPTER_CONFIG, load_lora
    from flagai.models.tokenizers import build_tokenizer

    folder = Path(folder)
    values = read_task_json(folder)
    if values is None:
        raise CheckpointError(
            "the folder holds no task.json",
            where=str(folder),
            expected="the `final` folder of a run",
            fix='AutoLoader("<task>", folder) loads a model without a task; flagai train gives it one',
        )
    tokenizer = build_tokenizer(folder)
    task = task_from_json(values, tokenizer, fingerprint(tokenizer), str(folder / FILE))
    head, names = task.head(), id2label(task)
    pad: Any = tokenizer.pad_token_id
    model: Any
    if (folder / ADAPTER_CONFIG).is_file():
        model = load_lora(folder, head, trainable=trainable, offline=offline, id2label=names, pad_token_id=pad)
    else:
        model = build_model(folder, head, id2label=names, pad_token_id=pad, fresh_head=False)
    model.flagai_task = task
    return Loaded(model, tokenizer, task)


def save_folder(folder: Path, loaded: Loaded) -> None:
    """A Hugging Face folder with tokenizer and task.json; adapters alone for a LoRA model."""
    from flagai.models.lora import is_lora, save_lora
    from flagai.models.quiet import quiet_transformers

    with quiet_transformers():
        if is_lora(loaded.model):
            save_lora(loaded.model, folder)
        else:
            loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    _save_task(folder, loaded)


def describe_folder(folder: Path, loaded: Loaded) -> None:
    """What `save_folder` writes but the weights: a model that lies on many processes brings these by itself."""
    from flagai.models.quiet import quiet_transformers
    from flagai.models.saved_form import describe_model

    describe_model(loaded.model, folder)
    with quiet_transformers():
        loaded.tokenizer.save_pretrained(folder)
    _save_task(folder, loaded)


def _save_task(folder: Path, loaded: Loaded) -> None:
    from flagai.models.checkpoints import fingerprint

    if loaded.task is not None:
        values = task_to_json(loaded.task, fingerprint(loaded.tokenizer))
        text = json.dumps(values, ensure_ascii=False, indent=2)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")


def id2label(task: Task) -> dict[int, str] | None:
    """The label table in the form of `config.json`, where the logits follow it."""
    labels = task.model_labels()
    return dict(enumerate(labels)) if labels and len(labels) == task.head().num_labels else None


def task_of(model: Any, tokenizer: Any) -> Task | None:
    """The task a model carries: the one that was hung on it, that of its folder, or that of its head class."""
    if (task := getattr(model, "flagai_task", None)) is not None:
        return task
    folder = Path(str(getattr(model.config, "_name_or_path", "") or "."))
    values = read_task_json(folder) if folder.name else None
    if values is not None:
        from flagai.models.checkpoints import fingerprint

        return task_from_json(values, tokenizer, fingerprint(tokenizer), str(folder / FILE))
    return _task_of_head(model, tokenizer)


def _task_of_head(model: Any, tokenizer: Any) -> Task | None:
    """Hugging Face heads name their labels in `config.id2label`."""
    names = {"ForSequenceClassification": "classification", "ForTokenClassification": "sequence-labeling"}
    name = next((task for ending, task in names.items() if type(model).__name__.endswith(ending)), None)
    if name is None:
        return None
    labels = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    if name == "sequence-labeling" and all(label.startswith("LABEL_") for label in labels):
        return None  # tags without names cannot be read as entities
    multi_label = model.config.problem_type == "multi_label_classification"
    options = TaskConfig(name=name, labels=tuple(labels), multi_label=multi_label)
    return make_task(options, tokenizer, max_length=most_tokens(tokenizer, model.config))


_IGNORED = frozenset({"load_pretrain_params", "target_size", "only_download_config", "fp16", "use_cache"})
"""arguments that the original took and did nothing with, or that have no meaning here"""


class AutoLoader:
    """A model, its tokenizer and its task by name.

    Args:
        task_name: a name of `flagai tasks`.
        model_name: a folder, a name of `flagai models` (the original's names among them), or a hub id.
        model_dir: where the original kept its downloads; `model_dir/model_name` is used if it is there.
        device: where the model goes.
        class_num: number of classes of a new head; `labels` names them.
        kwargs: options of the task (`labels`, `multi_label`, `inner_dim`, …).

    Raises:
        UnknownNameError: no such task or model; the message lists the nearest.
    """

    def __init__(
        self,
        task_name: str,
        model_name: str | Path,
        model_dir: str | Path = "./checkpoints/",
        *,
        device: str = "cpu",
        revision: str | None = None,
        source: hub.Source = "auto",
        offline: bool = False,
        class_num: int | None = None,
        max_length: int | None = None,
        stride: int | None = None,
        **kwargs: Any,
    ) -> None:
        find_row(task_name)
        beside = Path(model_dir) / str(model_name)
        if _is_model(beside):
            folder = beside
        elif (beside / _STATUS).is_file():
            folder = trained_folder(beside)
        else:
            folder = locate(str(model_name), revision=revision, source=source, offline=offline)
        if (folder / FILE).is_file():
            self._loaded = self._saved(folder, task_name, kwargs, offline)
        else:
            options = _task_options(task_name, class_num, kwargs)
            self._loaded = _load_new(folder, options, max_length, stride)
        self._loaded.model.to(device)
        self._loaded.model.eval()

    def get_model(self) -> Any:
        """The model, in evaluation mode on the device that was asked for."""
        return self._loaded.model

    def get_tokenizer(self) -> Any:
        """The model's fast tokenizer of transformers."""
        return self._loaded.tokenizer

    def get_task(self) -> Task | None:
        """The task that a saved folder or `task_name` gave; None for names that only load a body."""
        return self._loaded.task

    @staticmethod
    def _saved(folder: Path, task_name: str, kwargs: Mapping[str, Any], offline: bool) -> Loaded:
        loaded = load_saved(folder, offline=offline)
        assert loaded.task is not None
        if find_row(task_name).target != find_row(loaded.task.options.name).target:
            if not kwargs and (other := _on_the_same_weights(loaded, task_name)) is not None:
                return other
            raise ModelError(
                f"the folder was trained for {loaded.task.options.name!r}, not {task_name!r}",
                where=str(folder),
                fix=f'AutoLoader("{loaded.task.options.name}", …)',
            )
        if kwargs:
            raise ConfigError(
                f"{', '.join(sorted(kwargs))}: a trained folder brings its own options",
                where=str(folder),
                fix="leave them out",
            )
        return loaded


def _on_the_same_weights(loaded: Loaded, task_name: str) -> Loaded | None:
    """The model with another task, where both need no head of their own: what fills blanks also writes poems."""
    assert loaded.task is not None
    spec = loaded.task.head()
    if find_row(task_name).fixed or spec.num_labels or spec.module or spec.body not in _WRITE:
        return None
    options, config = TaskConfig(name=task_name), loaded.model.config
    task = make_task(options, loaded.tokenizer, max_length=loaded.task.max_length, config=config)
    if not task.writes:
        return None
    loaded.model.flagai_task = task
    return Loaded(loaded.model, loaded.tokenizer, task)


def _is_model(folder: Path) -> bool:
    """Whether a model's folder is here; THUDM's folders have no config.json."""
    if (folder / "config.json").is_file() or not folder.is_dir():
        return folder.is_dir()
    from flagai.models.glm.folders import find_glm

    return find_glm(folder) is not None


def _task_options(task_name: str, class_num: int | None, kwargs: Mapping[str, Any]) -> TaskConfig:
    ignored = sorted(_IGNORED & set(kwargs))
    if ignored:
        warnings.warn(f"AutoLoader: {', '.join(ignored)} has no effect", stacklevel=3)
    options = {key: value for key, value in kwargs.items() if key not in _IGNORED}
    if class_num is not None and "labels" not in options:
        if find_row(task_name).kind == "entities":
            raise ConfigError(
                f"class_num={class_num} does not say which entities there are",
                where="AutoLoader",
                expected="the types of entities",
                fix='labels=["PER", "LOC", …]',
            )
        options["labels"] = [str(i) for i in range(class_num)]
    unknown = sorted(set(options) - set(TaskConfig.model_fields))
    if unknown:
        raise unknown_name(
            "argument", unknown[0], [*TaskConfig.model_fields, "class_num", "device"], where="AutoLoader"
        )
    return TaskConfig(name=task_name, **options)


def _load_new(folder: Path, options: TaskConfig, max_length: int | None, stride: int | None) -> Loaded:
    from flagai.models.build import build_model, read_config
    from flagai.models.checkpoints import tokenizer_fits
    from flagai.models.tokenizers import build_tokenizer

    tokenizer = build_tokenizer(folder)
    config = read_config(folder)
    tokenizer_fits(tokenizer, config, where=str(folder), needs_pad=not find_row(options.name).writes)
    length = max_length or most_tokens(tokenizer, config)
    task = make_task(settle(options, folder), tokenizer, max_length=length, stride=stride, config=config)
    task.may_cut = max_length is not None
    if task.label_names() == []:
        raise ConfigError(
            f"{options.name} needs its labels",
            where="AutoLoader",
            expected="labels=[…] or class_num=…, or a trained folder",
            fix=f'AutoLoader("{options.name}", …, labels=["…", "…"])',
        )
    pad: Any = tokenizer.pad_token_id
    model: Any = build_model(folder, task.head(), id2label=id2label(task), pad_token_id=pad)
    model.flagai_task = task
    return Loaded(model, tokenizer, task)
