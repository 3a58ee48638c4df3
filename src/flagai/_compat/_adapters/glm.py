"""The original's GLM classes around today's models: its call, its losses, its names of tensors. Knows no trainer.

`flagai_model` is what computes. Separators (`attention_mask`: the length of the context) and `position_ids` [B, 2, L]
go through as they are. `mems` of a call may be given to the next one; what they are made of is not the original's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache

from flagai._compat._adapters import glm_state
from flagai._compat._adapters.bert import find_folder
from flagai._compat._adapters.files import OriginalFiles
from flagai.auto import most_tokens
from flagai.config import TaskConfig
from flagai.errors import ConfigError, DataError
from flagai.models.checkpoints import read_json
from flagai.models.glm.configs import config_json
from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.folders import config_of
from flagai.models.glm.heads import GLMForSequenceClassification as Classifier
from flagai.models.glm.modeling import GLMForConditionalGeneration
from flagai.models.glm.reading import brings_classifier, build_from
from flagai.models.glm.sources import open_glm
from flagai.tasks.base import Task
from flagai.tasks.table import make_task


class OriginalGLM(OriginalFiles):
    """Base of the original's classes.

    Args:
        config: the original's config.json; the weights are random.
        kwargs: `class_num`, `pool_token`, `max_sequence_length`; `take_softmax`, `length_penalty` of cloze classes.
    """

    inner_class: ClassVar[Any] = GLMForConditionalGeneration

    def __init__(self, config: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__()
        modern = GLMConfig.from_dict({name: value for name, value in config.items() if name != "class_num"})
        modern.update(_fields({**config, **kwargs}))
        self._hold(self.inner_class(modern), kwargs)

    @classmethod
    def from_pretrain(
        cls,
        download_path: str = "./checkpoints/",
        model_name: str = "GLM-large-ch",
        only_download_config: bool = False,
        device: str = "cpu",
        **kwargs: Any,
    ) -> Any:
        """The model of `download_path/model_name`, of a folder, of a name of the original or of a hub id."""
        folder = find_folder(download_path, model_name)
        if only_download_config:
            return cls.init_from_json(str(folder / "config.json"), **kwargs).to(device)
        return cls.of_folder(folder, **kwargs).to(device)

    @classmethod
    def of_folder(cls, folder: Path, **kwargs: Any) -> Any:
        """The model of a folder in any layout; a head that is not there is new."""
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        source = open_glm(folder)
        config = config_of(source.found, source.sizes)
        config.update(_fields(kwargs))
        inner, report = build_from(source, cls.inner_class, config, heads=brings_classifier(source))
        report.check(inner, fresh=True, where=str(folder))
        model._hold(inner.eval(), kwargs)
        return model

    @classmethod
    def init_from_json(cls, config_file: str = "./config.json", **kwargs: Any) -> Any:
        """A model with random weights from a config.json."""
        return cls(read_json(Path(config_file)), **kwargs)

    def _hold(self, inner: Any, options: Mapping[str, Any]) -> None:
        self.flagai_model = inner
        self.take_softmax = bool(options.get("take_softmax", self._softmax_by_default))
        self.length_penalty = float(options.get("length_penalty", 0.0))

    _softmax_by_default: ClassVar[bool] = True

    @property
    def config(self) -> Any:
        return self.flagai_model.config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def _logits(self, data: Mapping[str, Any], logits_to_keep: Any = 0) -> Tensor:
        names = ("input_ids", "position_ids", "attention_mask")
        inputs = {name: data[name] for name in names if data.get(name) is not None}
        return self.flagai_model(**inputs, logits_to_keep=logits_to_keep).logits

    def _original(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return glm_state.to_original(self.flagai_model), config_json(self.config, "flagai-original")

    def _take(self, state: dict[str, Tensor], *, strict: bool, where: str) -> None:
        glm_state.fill(self.flagai_model, state, strict=strict, where=where)

    def flagai_unwrap(self, tokenizer: Any, task: Task | None) -> tuple[Any, Task | None]:
        """What computes, and the task that its answers mean."""
        return self.flagai_model, task


class GLMModel(OriginalGLM):
    """The model with its output layer."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mems: Any = None,
        return_memory: bool = False,
        detach_memory: bool = True,
        prompt_pos: Tensor | None = None,
        **data: Any,
    ) -> dict[str, Any]:
        """`logits` [B, L, V]; `hidden_states`, the memory, where it was asked for; with `labels` [B, L] the `loss`.

        Args:
            mems: the `hidden_states` of an earlier call with `return_memory`; what was read then is seen by all.
            labels: not shifted, -100 where nothing is asked.
        """
        if prompt_pos is not None:
            raise ConfigError("prompt_pos is not part of this release", where="GLMModel", fix="leave it out")
        past = mems if isinstance(mems, Cache) else None  # the original's first call may give []
        keeps = return_memory or past is not None
        outputs = self.flagai_model(
            input_ids,
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=copy.deepcopy(past),  # the caller may go on from it twice
            use_cache=keeps,
            labels=data.get("labels"),
        )
        values = {"logits": outputs.logits, "hidden_states": outputs.past_key_values if keeps else None}
        return values if outputs.loss is None else {**values, "loss": outputs.loss}


class GLMForSeq2Seq(OriginalGLM):
    """The same with a loss over the target: `logits` [B · L, V], `loss` the mean where `loss_mask` is 1."""

    def forward(self, **data: Any) -> dict[str, Any]:
        """`input_ids`, `position_ids`, `attention_mask`; `target_ids` and `loss_mask` [B, L] for a loss.

        The original divides the loss by tokens that do not count as well; here it is the mean over those that do.
        """
        logits = self._logits(data).flatten(0, 1)
        values: dict[str, Any] = {"logits": logits, "hidden_states": None}
        if data.get("target_ids") is not None:
            targets = data["target_ids"].flatten()
            mask = data.get("loss_mask")
            counted = (targets != 0) & (targets.new_ones(()) if mask is None else mask.flatten()).bool()
            losses = F.cross_entropy(logits.float(), targets, reduction="none")
            values["loss"] = (losses * counted).sum() / counted.sum().clamp(min=1)
        return values


class GLMForSingleTokenCloze(OriginalGLM):
    """Which of several tokens stands in the blank: `logits` [B, candidates]."""

    _softmax_by_default = False

    def forward(self, **data: Any) -> dict[str, Any]:
        """The scores of `target_ids` [B, candidates] at the position `attention_mask` [B], the start of the answer."""
        places = data["attention_mask"].reshape(-1)
        rows = torch.arange(len(places), device=places.device)
        asked = torch.zeros_like(data["input_ids"], dtype=torch.bool)
        if bool((places < 0).any()) or bool((places >= asked.shape[1]).any()):
            raise DataError(
                "attention_mask points outside the text", where="GLMForSingleTokenCloze", expected="the start token"
            )
        asked[rows, places] = True
        scores = self._logits(data, asked).float()
        scores = scores.log_softmax(-1) if self.take_softmax else scores
        return _choice(scores.gather(1, data["target_ids"]), data)


class GLMForMultiTokenCloze(OriginalGLM):
    """Which of several answers of any length stands in the blank: `logits` [B, candidates]."""

    def forward(self, **data: Any) -> dict[str, Any]:
        """Σ log p of `target_ids` [B, candidates, L] where `logit_mask` is 1, over its length to the `length_penalty`.

        Without `take_softmax` the raw scores are added up. A `labels` [B] gives a loss.
        """
        shape = data["input_ids"].shape[:2]
        flat = {name: value.flatten(0, 1) for name, value in data.items() if name != "labels" and value is not None}
        scores = self._logits(flat).float()
        scores = scores.log_softmax(-1) if self.take_softmax else scores
        mask = flat["logit_mask"].float()
        sums = (scores.gather(2, flat["target_ids"][..., None])[..., 0] * mask).sum(1)
        if self.length_penalty:
            sums = sums / mask.sum(1).clamp(min=1) ** self.length_penalty
        return _choice(sums.view(shape), data)


class GLMForSequenceClassification(OriginalGLM):
    """One of `class_num` classes for a text; with `class_num` 1 a score for each of several texts."""

    inner_class: ClassVar[Any] = Classifier

    def forward(self, **data: Any) -> dict[str, Any]:
        """`logits` [B, class_num]; for `input_ids` [B, candidates, L] and one class [B, candidates]."""
        names = ("input_ids", "position_ids", "attention_mask")
        inputs = {name: data[name] for name in names if data.get(name) is not None}
        shape = inputs["input_ids"].shape[:-1]
        if len(shape) == 2:
            inputs = {name: value.flatten(0, 1) for name, value in inputs.items()}
        logits = self.flagai_model(**inputs).logits
        return _choice(logits.view(shape) if len(shape) == 2 else logits, data)

    def flagai_unwrap(self, tokenizer: Any, task: Task | None) -> tuple[Any, Task | None]:
        """What computes, and classification by numbers."""
        if task is None:
            labels = tuple(str(i) for i in range(self.config.num_labels))
            options = TaskConfig(name="classification", labels=labels)
            task = make_task(options, tokenizer, max_length=most_tokens(tokenizer, self.config))
        return self.flagai_model, task


def _choice(scores: Tensor, data: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {"logits": scores, "hidden_states": None}
    if data.get("labels") is not None:
        values["loss"] = F.cross_entropy(scores.float(), data["labels"].reshape(-1).long())
    return values


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """What of the original's arguments today's configuration holds, under its names."""
    found = {name: values[name] for name in ("pool_token", "max_sequence_length") if values.get(name) is not None}
    count = values.get("class_num")
    if count is None:
        return found
    if not isinstance(count, int) or count < 1:
        raise ConfigError(f"class_num is {count!r}", where="class_num", expected="a whole number of at least 1")
    names = [str(i) for i in range(count)]
    return {**found, "id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
