"""The original's BERT classes around today's models: its call, its losses, its names of tensors. Knows no trainer.

`flagai_model` is what computes: a Hugging Face model, with a head of ours where the original had one of its own. What
the original cannot express (another family, another feed-forward size) keeps Hugging Face's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flagai._compat._adapters import bert_state, losses
from flagai._compat._adapters.files import OriginalFiles
from flagai.auto import locate, most_tokens
from flagai.config import TaskConfig
from flagai.errors import CheckpointError, ConfigError
from flagai.models import legacy_bert
from flagai.models.build import build_from_config, build_model
from flagai.models.checkpoints import iteration_folder, read_json, read_state_dict
from flagai.models.glm.folders import find_glm
from flagai.models.headed import HeadedModel
from flagai.tasks.base import HeadSpec, Task
from flagai.tasks.table import make_task

_CRF_SCALE = 128.0  # a power of two: transitions go from file to weight and back without a changed bit


class OriginalBert(OriginalFiles):
    """Base of the original's classes.

    Args:
        config: the original's config.json, or Hugging Face's; the weights are random.
        kwargs: `class_num`, `inner_dim`.

    Raises:
        ConfigError: a class with a head, and no `class_num` in `config` or `kwargs`.
    """

    kind: ClassVar[legacy_bert.Kind]
    task_name: ClassVar[str | None] = None
    needs_classes: ClassVar[bool] = False

    def __init__(self, config: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__()
        options = {**config, **kwargs}
        inner = build_from_config(bert_state.modern_config(config), self.head_spec(options))
        self._hold(inner, {})

    @classmethod
    def from_pretrain(
        cls,
        download_path: str = "./checkpoints/",
        model_name: str = "RoBERTa-base-ch",
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
        """The model of a folder in Hugging Face's layout or in the original's; a head that is not there is new."""
        folder = iteration_folder(folder)
        options = {**read_json(folder / "config.json"), **kwargs}
        inner = build_model(folder, cls.head_spec(options))
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._hold(inner, {})
        if "model_type" not in options:
            model.keep_unread(read_state_dict(folder))
        return model

    @classmethod
    def init_from_json(cls, config_file: str = "./config.json", **kwargs: Any) -> Any:
        """A model with random weights from a config.json."""
        return cls(read_json(Path(config_file)), **kwargs)

    @classmethod
    def head_spec(cls, options: Mapping[str, Any]) -> HeadSpec:
        """Which of today's heads this class has."""
        count = options.get("class_num") or len(options.get("id2label") or ())
        if cls.needs_classes and (not isinstance(count, int) or count < 1):
            raise ConfigError(
                f"{cls.__name__} needs the number of classes",
                where="class_num",
                expected="a whole number of at least 1, in config.json or as class_num=…",
            )
        return _spec(cls.kind, int(count) if cls.needs_classes else 0, int(options.get("inner_dim") or 64))

    def _hold(self, inner: Any, unread: dict[str, Tensor]) -> None:
        self.flagai_model = inner
        self._unread = unread
        if isinstance(inner, HeadedModel) and self.kind == "ner-crf":
            # The original's CRF has no scores for the first and the last tag.
            inner.head.start_transitions.requires_grad_(False)
            inner.head.end_transitions.requires_grad_(False)

    # -- what the original's models offer ------------------------------------------------------------------------

    @property
    def config(self) -> Any:
        return self.flagai_model.config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, **data: Any) -> Any:
        """`input_ids` [B, L], `segment_ids`, `labels` → dict with `logits`, `hidden_states` and, with labels, `loss`.

        Padding (id 0 as BERT has it) is never attended; `attention_mask` [B, L] hides more.
        """
        outputs = self.flagai_model(**self._inputs(data))
        values: dict[str, Any] = {"logits": self._logits(outputs), "hidden_states": outputs.get("last_hidden_state")}
        if data.get("labels") is not None:
            values["loss"] = losses.loss_of(self.kind, outputs, data)
        return values

    def _inputs(self, data: Mapping[str, Any]) -> dict[str, Any]:
        ids = data["input_ids"]
        mask = ids != (self.config.pad_token_id or 0)
        extra = data.get("attention_mask")
        if isinstance(extra, Tensor) and extra.shape == ids.shape:
            mask = mask & extra.bool()
        inputs = {"input_ids": ids, "attention_mask": mask.long()}
        segments = data.get("segment_ids", data.get("token_type_ids"))
        if segments is not None and getattr(self.config, "type_vocab_size", 0) > 1:
            inputs["token_type_ids"] = segments
        return inputs

    def _logits(self, outputs: Mapping[str, Tensor]) -> Tensor:
        return outputs["logits"]

    def _original(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        config = self.config.to_dict()
        if not bert_state.expressible(config):
            return self.flagai_model.state_dict(), config
        state, written = legacy_bert.export(self.flagai_model, kind=self.kind)
        return {**state, **self._unread}, written

    def _take(self, state: dict[str, Tensor], *, strict: bool, where: str) -> None:
        bert_state.fill(self, state, strict=strict, where=where)

    def keep_unread(self, state: Mapping[str, Tensor]) -> None:
        """Keep the tensors that no part of today's model reads (a pooler), so that they are written back."""
        own, prefix = self._original()[0], "" if self.kind == "encoder" else "model."
        poolers = {prefix + name.removeprefix("model."): tensor for name, tensor in state.items() if "pooler." in name}
        self._unread = {name: tensor for name, tensor in poolers.items() if name not in own}

    # -- for today's Predictor -----------------------------------------------------------------------------------

    def flagai_unwrap(self, tokenizer: Any, task: Task | None) -> tuple[Any, Task | None]:
        """What computes, and the task that its answers mean."""
        return self.flagai_model, task if task is not None else self._task(tokenizer)

    def _task(self, tokenizer: Any) -> Task | None:
        if self.task_name is None:
            return None
        options = TaskConfig(name=self.task_name, **self._task_options())
        return make_task(options, tokenizer, max_length=most_tokens(tokenizer, self.config))

    def _task_options(self) -> dict[str, Any]:
        return {"labels": tuple(str(i) for i in range(self.config.num_labels))}


class BertModel(OriginalBert):
    """The encoder alone; a call returns a tuple: hidden states of all layers (or the last), pooled vector or None."""

    kind = "encoder"

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        output_all_encoded_layers: bool = True,
        **_: Any,
    ) -> tuple[Any, Tensor | None]:
        data = {"input_ids": input_ids, "token_type_ids": token_type_ids, "attention_mask": attention_mask}
        outputs = self.flagai_model(**self._inputs(data), output_hidden_states=output_all_encoded_layers)
        layers = list(outputs.hidden_states[1:]) if output_all_encoded_layers else outputs.last_hidden_state
        return layers, getattr(outputs, "pooler_output", None)


class BertForClsClassifier(OriginalBert):
    """One of `class_num` classes for a text or a pair."""

    kind, task_name, needs_classes = "classification", "classification", True


class BertForSequenceLabeling(OriginalBert):
    """One of `class_num` tags for each token."""

    kind, task_name, needs_classes = "sequence-labeling", "sequence-labeling", True

    def _task_options(self) -> dict[str, Any]:
        """Tags without names; `predict_ner` is given the true ones."""
        return {"labels": ("O", *(f"B-{i}" for i in range(1, self.config.num_labels)))}


class BertForSequenceLabelingCRF(BertForSequenceLabeling):
    """The same with a conditional random field."""

    kind, task_name = "ner-crf", "ner-crf"


class BertForSequenceLabelingGP(OriginalBert):
    """A score for every span and each of `class_num` entity types."""

    kind, task_name, needs_classes = "ner-gp", "ner-gp", True

    def _task_options(self) -> dict[str, Any]:
        head = self.flagai_model.head
        return {"labels": tuple(str(i) for i in range(head.num_labels)), "inner_dim": head.inner_dim}


class BertForEmbedding(OriginalBert):
    """A vector for a text; `logits` are the last hidden states [B, L, H], as the original has it."""

    kind, task_name = "embedding", "embedding"

    def _logits(self, outputs: Mapping[str, Tensor]) -> Tensor:
        return outputs["last_hidden_state"]

    def _task_options(self) -> dict[str, Any]:
        return {"pooling": "mean", "normalize": False}


class BertForMaskLM(OriginalBert):
    """A token for each position."""

    kind = "masklm"


class BertForSeq2seq(OriginalBert):
    """A text for a text, as UniLM: segment 0 is seen by all, segment 1 from left to right.

    `labels` [B, L - 1] are the inputs from the second token on; those of segment 1 count, id 0 does not.
    """

    kind = "masklm"

    def _inputs(self, data: Mapping[str, Any]) -> dict[str, Any]:
        inputs = super()._inputs(data)
        segments = data.get("segment_ids", data.get("token_type_ids"))
        target = torch.zeros_like(data["input_ids"]) if segments is None else segments
        length = target.shape[1]
        order = torch.ones(length, length, dtype=torch.bool, device=target.device).tril()
        seen = (target == 0)[:, None, :] | (order & (target != 0)[:, :, None])
        # A row of pads alone sees its first token: a softmax over nothing has no value.
        first = torch.arange(length, device=target.device) == 0
        inputs["attention_mask"] = ((seen & inputs["attention_mask"].bool()[:, None]) | first)[:, None]
        return inputs

    def forward(self, **data: Any) -> Any:
        values = super().forward(**{name: value for name, value in data.items() if name != "labels"})
        if data.get("labels") is not None:
            values["loss"] = losses.seq2seq_loss(values["logits"], data)
        return values

    def _task(self, tokenizer: Any) -> Task | None:
        length = most_tokens(tokenizer, self.config)
        return make_task(TaskConfig(name="seq2seq"), tokenizer, max_length=length, config=self.config)


def find_folder(model_dir: str | Path, model_name: str, **options: Any) -> Path:
    """`model_dir/model_name` where the original put it, else what the name means today."""
    beside = Path(model_dir) / model_name
    for folder in (beside, Path(model_name)):
        if (folder / "config.json").is_file() or (folder / "latest_iteration.txt").is_file() or find_glm(folder):
            return folder
    if beside.is_dir():
        raise CheckpointError(
            "the folder holds no config.json", where=str(beside), expected="config.json and pytorch_model.bin"
        )
    return locate(model_name, **options)


def _spec(kind: legacy_bert.Kind, count: int, inner_dim: int) -> HeadSpec:
    heads = "flagai.models.heads"
    if kind == "embedding":
        pooled = {"pooling": "mean", "normalize": False}
        return HeadSpec(body="encoder", num_labels=0, module=f"{heads}:Pooled", options=pooled)
    if kind == "ner-gp":
        options = {"inner_dim": inner_dim}
        return HeadSpec(body="encoder", num_labels=count, module=f"{heads}:GlobalPointer", options=options)
    if kind == "ner-crf":
        scale = {"transition_scale": _CRF_SCALE}
        return HeadSpec(body="token-classification", num_labels=count, module=f"{heads}:CRF", options=scale)
    bodies = {"classification": "sequence-classification", "sequence-labeling": "token-classification"}
    return HeadSpec(body=bodies.get(kind, "masked-lm" if kind == "masklm" else "encoder"), num_labels=count)
