"""The original's AutoLoader: its names of tasks and models to the classes of these adapters. Knows no trainer."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from flagai._compat._adapters import bert, glm, lm
from flagai._compat._adapters.later import PARALLEL
from flagai._compat._adapters.tokenizer import BertTokenizer
from flagai.errors import ConfigError, ModelError, unknown_name
from flagai.models.build import read_config
from flagai.models.checkpoints import read_json
from flagai.models.glm.folders import find_glm
from flagai.models.loading import is_glm
from flagai.models.tokenizers import build_tokenizer
from flagai.models.zoo import find

CLASSES: Final[dict[str, type[bert.OriginalBert]]] = {
    "lm": bert.BertModel,
    "masklm": bert.BertForMaskLM,
    "embedding": bert.BertForEmbedding,
    "classification": bert.BertForClsClassifier,
    "semantic-matching": bert.BertForClsClassifier,
    "sequence-labeling": bert.BertForSequenceLabeling,
    "ner": bert.BertForSequenceLabeling,
    "sequence-labeling-crf": bert.BertForSequenceLabelingCRF,
    "ner-crf": bert.BertForSequenceLabelingCRF,
    "sequence-labeling-gp": bert.BertForSequenceLabelingGP,
    "ner-gp": bert.BertForSequenceLabelingGP,
    "seq2seq": bert.BertForSeq2seq,
    "title-generation": bert.BertForSeq2seq,
}
GLM_CLASSES: Final[dict[str, type[glm.OriginalGLM]]] = {
    "lm": glm.GLMModel,
    "seq2seq": glm.GLMForSeq2Seq,
    "title-generation": glm.GLMForSeq2Seq,
    "poetry": glm.GLMForSeq2Seq,
    "classification": glm.GLMForSequenceClassification,
}
LM_CLASSES: Final[dict[str, type[lm.OriginalLM]]] = {
    "gpt2": lm.GPT2Model,
    "opt": lm.OPTModel,
    "t5": lm.T5Model,
    "mt5": lm.T5Model,
}
_TODAY: Final = ("qwen3", "llama3")
"""names of families that the original had for tasks: today's AutoLoader loads them for `lm`"""
_LM_TASKS: Final = ("lm", "seq2seq", "title-generation")
"""the original refuses titles to some of these families; there was no reason"""
_LATER: Final = {
    "aquila2": "Aquila",
    "train": PARALLEL,
    "txt_img_matching": "pictures",
    "text2img": "pictures",
}
_IGNORED: Final = frozenset(
    {
        "all_devices",
        "checkpoint_activations",
        "fp16",
        "hidden_dropout",
        "inference_mode",
        "load_pretrain_params",
        "low_cpu_mem_usage",
        "target_size",
        "torch_dtype",
        "use_cache",
    }
)
_READ: Final = frozenset({"class_num", "inner_dim"})
_WHERE: Final = frozenset({"offline", "source", "revision"})


class AutoLoader:
    """Model and tokenizer of a task, by the original's names.

    Args:
        task_name: a task of the original, with hyphens or underscores.
        model_name: a folder in `model_dir`, any folder, a name of `flagai models` (in any case) or a hub id.
        model_dir: where the original kept its downloads; asked first, and no network where the folder is there.
        only_download_config: build from config.json, with random weights.
        device: where the model goes.
        kwargs: `class_num`, `inner_dim`; `offline`, `source`, `revision`. Arguments of the original that mean nothing
            here are accepted with a warning.

    Raises:
        UnknownNameError: no such task, model or argument; the message lists the nearest.
        ModelError: a task that a later release brings.
    """

    def __init__(
        self,
        task_name: str = "lm",
        model_name: str = "RoBERTa-base-ch",
        model_dir: str = "./checkpoints/",
        only_download_config: bool = False,
        device: str = "cpu",
        **kwargs: Any,
    ) -> None:
        self.task_name = task_name
        key = _key_of(task_name)
        options = _checked(kwargs)
        _refuse_by_name(key, task_name, model_name)
        where = {key: options.pop(key) for key in _WHERE & options.keys()}
        folder = bert.find_folder(model_dir, model_name, **where)
        if (folder / "task.json").is_file():
            self.model, self.tokenizer = _finished(folder, task_name, device, options)
            return
        kind: Any = _class_of(key, task_name, folder, config_only=only_download_config)
        if only_download_config:
            self.model: Any = kind.init_from_json(str(folder / "config.json"), **options)
        else:
            self.model = kind.of_folder(folder, **options)
        self.model.to(device).eval()
        tokenizer = build_tokenizer(folder)
        # A GLM's has the original's methods itself.
        self.tokenizer: Any = tokenizer if hasattr(tokenizer, "commands") else BertTokenizer.of(tokenizer)

    def get_model(self) -> Any:
        """The model: a class of `flagai.model`, or today's for a folder that flagai trained."""
        return self.model

    def get_tokenizer(self) -> Any:
        return self.tokenizer

    def get_task_name(self, brief_model_name: str) -> str:
        """The key of the original's table, for instance "bert_classification"."""
        return f"{brief_model_name}_{self.task_name}"

    def load_pretrain_params(self, model_path: str) -> None:
        """Take the weights of a file or folder of the original or of Hugging Face; a head may be missing there."""
        if not isinstance(self.model, bert.OriginalBert | glm.OriginalGLM | lm.OriginalLM):
            raise ModelError(
                "the model came whole from a trained folder", where="load_pretrain_params", fix="load the other folder"
            )
        self.model.load_weights(model_path)

    def save_pretrain_params(self, folder: str) -> Path:
        """Write the folder that the original reads: config.json, pytorch_model.bin, vocab.txt.

        Raises:
            ModelError: a model the original cannot express.
        """
        from flagai._compat._adapters.checkpoints import write_folder
        from flagai.models.legacy import save_legacy

        if isinstance(self.model, lm.OriginalLM):  # whose AutoLoader reads another form than their Trainer writes
            plain = getattr(self.tokenizer, "flagai_tokenizer", self.tokenizer)
            return save_legacy(self.model.flagai_model, folder, tokenizer=plain)
        return write_folder(Path(folder), self.model, {}, tokenizer=self.tokenizer)


def _key_of(task_name: str) -> str:
    """The task in the spelling of the tables; an error for one that no family has."""
    key = task_name.lower()
    for name in (key, key.replace("_", "-")):
        if name in CLASSES or name in GLM_CLASSES:
            return name
        if name in _TODAY:
            raise ModelError(
                f"{task_name!r} is a family and no task", where="AutoLoader", fix='flagai.AutoLoader("lm", …) loads it'
            )
        if name in _LATER:
            raise _later_task(task_name, _LATER[name], [*CLASSES])
    raise unknown_name("task", task_name, {*CLASSES, *GLM_CLASSES, *_LM_TASKS, *_LATER}, where="AutoLoader")


def _refuse_by_name(key: str, task_name: str, model_name: str) -> None:
    """A name that tells the family is enough to refuse a task: nothing needs to be found or downloaded first."""
    entry = find(model_name)
    if entry is not None and entry.family == "bert" and key not in CLASSES:
        raise _not_this(task_name, "this model", CLASSES)


def _class_of(
    key: str, task_name: str, folder: Path, *, config_only: bool
) -> type[bert.OriginalBert] | type[glm.OriginalGLM] | type[lm.OriginalLM]:
    raw = read_json(folder / "config.json") if config_only else {}
    table: dict[str, Any]
    if is_glm(raw) if config_only else find_glm(folder) is not None:
        what, table = "a GLM", {**GLM_CLASSES}
    elif (family := _lm_family(folder, raw)) is not None:
        what, table = f"a {family}", {**dict.fromkeys(_LM_TASKS, LM_CLASSES[family])}
    else:
        what, table = "this model", {**CLASSES}
    if key in table:
        return table[key]
    raise _not_this(task_name, what, table)


def _lm_family(folder: Path, raw: dict[str, Any]) -> str | None:
    """ "gpt2", "opt", "t5" or "mt5", by config.json alone where `raw` is its content; None for other families."""
    if not raw:
        kind = read_config(folder).model_type
    elif "model_type" in raw:
        kind = raw["model_type"]
    else:
        signs = {"ffn_dim": "opt", "n_embd": "gpt2", "d_kv": "t5"}
        kind = next((family for sign, family in signs.items() if sign in raw), None)
    return kind if kind in LM_CLASSES else None


def _not_this(task_name: str, what: str, known: Iterable[str]) -> ModelError:
    return ModelError(
        f"the task {task_name!r} is none of {what}", where="AutoLoader", expected=f"one of: {', '.join(known)}"
    )


def _later_task(task_name: str, what: str, known: Iterable[str]) -> ModelError:
    return ModelError(
        f"the task {task_name!r} is not part of this release",
        where="AutoLoader",
        expected=f"one of: {', '.join(known)}",
        fix=f"wait for the release of flagai 2 that brings {what}",
    )


def _checked(kwargs: dict[str, Any]) -> dict[str, Any]:
    ignored = sorted(_IGNORED & kwargs.keys())
    if ignored:
        warnings.warn(f"AutoLoader: {', '.join(ignored)} has no effect", stacklevel=3)
    options = {key: value for key, value in kwargs.items() if key not in _IGNORED}
    for key in options:
        if key not in _READ | _WHERE:
            raise unknown_name("argument", key, [*_READ, *_WHERE, *_IGNORED], where="AutoLoader")
    return options


def _finished(folder: Path, task_name: str, device: str, options: dict[str, Any]) -> tuple[Any, Any]:
    from flagai.auto import AutoLoader as Today

    if options:
        raise ConfigError(
            f"{', '.join(sorted(options))}: a trained folder brings its own", where=str(folder), fix="leave them out"
        )
    loader = Today(task_name, str(folder), device=device)
    return loader.get_model(), loader.get_tokenizer()
