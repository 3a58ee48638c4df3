"""The original's GPT-2, OPT and T5 around Hugging Face's models: its call, its names of tensors. Knows no trainer.

`flagai_model` is what computes. What the original cannot express keeps Hugging Face's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from flagai._compat._adapters.bert import find_folder
from flagai._compat._adapters.files import OriginalFiles
from flagai.auto import most_tokens
from flagai.config import TaskConfig
from flagai.errors import CheckpointError, ModelError
from flagai.models import legacy, legacy_gpt2, legacy_opt, legacy_t5
from flagai.models.build import build_from_config, build_model
from flagai.models.checkpoints import read_json
from flagai.tasks.base import HeadSpec, Task
from flagai.tasks.table import make_task

_IGNORED = -100
_SHOWN = 8
_HEAD = "lm_head.weight"


class OriginalLM(OriginalFiles):
    """Base of the original's classes that write.

    Args:
        config: the original's config.json, or Hugging Face's; the weights are random.
        kwargs: accepted and without meaning here (`checkpoint_activations` and the like).
    """

    families: ClassVar[tuple[str, ...]]
    legacy_module: ClassVar[Any]
    task_name: ClassVar[str] = "lm"
    default_name: ClassVar[str]

    def __init__(self, config: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__()
        raw = dict(config) if "model_type" in config else self.legacy_module.modern_config(config)
        self._hold(build_from_config(raw, _SPEC))

    @classmethod
    def from_pretrain(
        cls,
        download_path: str = "./checkpoints/",
        model_name: str | None = None,
        only_download_config: bool = False,
        device: str = "cpu",
        **kwargs: Any,
    ) -> Any:
        """The model of `download_path/model_name`, of a folder, of a name of the original or of a hub id."""
        folder = find_folder(download_path, model_name or cls.default_name)
        if only_download_config:
            return cls.init_from_json(str(folder / "config.json"), **kwargs).to(device)
        return cls.of_folder(folder, **kwargs).to(device)

    @classmethod
    def of_folder(cls, folder: Path, **kwargs: Any) -> Any:
        """The model of a folder in Hugging Face's layout or in one of the original's.

        Raises:
            ModelError: the folder holds a model of another family.
        """
        inner = build_model(folder, _SPEC, fresh_head=False)
        if inner.config.model_type not in cls.families:
            raise ModelError(
                f"the folder holds a {inner.config.model_type}",
                where=str(folder),
                expected=" or ".join(cls.families),
            )
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._hold(inner)
        return model

    @classmethod
    def init_from_json(cls, config_file: str = "./config.json", **kwargs: Any) -> Any:
        """A model with random weights from a config.json."""
        return cls(read_json(Path(config_file)), **kwargs)

    def _hold(self, inner: Any) -> None:
        self.flagai_model = inner

    @property
    def config(self) -> Any:
        return self.flagai_model.config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def _original(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        try:
            return legacy.export(self.flagai_model, form="trainer")
        except ModelError:
            return dict(self.flagai_model.state_dict()), self.config.to_dict()

    @torch.no_grad()
    def _take(self, state: dict[str, Tensor], *, strict: bool, where: str) -> None:
        body = self.legacy_module.to_huggingface(state, self._words()).body
        own = self.flagai_model.state_dict()
        missing = [name for name in own if name not in body and name != _HEAD and not _is_copy(name)]
        wrong = [name for name, tensor in own.items() if name in body and body[name].shape != tensor.shape]
        if missing or wrong:
            raise CheckpointError(
                f"{len(missing)} tensors are missing ({', '.join(missing[:_SHOWN])}), "
                f"{len(wrong)} have another shape ({', '.join(wrong[:_SHOWN])})",
                where=where,
                expected=f"the weights of a {type(self).__name__} of this size",
            )
        self.flagai_model.load_state_dict({name: body[name] for name in own if name in body}, strict=False)

    def _words(self) -> dict[str, Any]:
        """The configuration in the words that converting wants."""
        return {**self.config.to_dict(), **self._original()[1]}

    # -- for today's Predictor -----------------------------------------------------------------------------------

    def flagai_unwrap(self, tokenizer: Any, task: Task | None) -> tuple[Any, Task | None]:
        """What computes, and the task that its answers mean."""
        return self.flagai_model, task if task is not None else self._task(tokenizer)

    def _task(self, tokenizer: Any) -> Task:
        length = most_tokens(tokenizer, self.config)
        return make_task(TaskConfig(name=self.task_name), tokenizer, max_length=length, config=self.config)


class GPT2Model(OriginalLM):
    """GPT-2 and CPM: `input_ids` [B, L] → `logits` [B, L, V]."""

    families, legacy_module, default_name = ("gpt2",), legacy_gpt2, "GPT2-base-ch"

    def forward(self, **data: Any) -> dict[str, Any]:
        """`input_ids`; `labels` [B, L], shifted here; `use_cache`, `past_key_values` → a dict with `logits`, `loss`.

        Padding (id 0) is not attended and, unlike in the original, counts in no loss. `hidden_states` is the cache.
        """
        ids, mask = data["input_ids"], data.get("attention_mask")
        padded = isinstance(mask, Tensor) and mask.shape == ids.shape
        mask = mask if padded else None if data.get("past_key_values") is not None else (ids != 0).long()
        outputs = self.flagai_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=data.get("position_ids"),
            past_key_values=data.get("past_key_values"),
            use_cache=bool(data.get("use_cache")),
        )
        values: dict[str, Any] = {"logits": outputs.logits, "hidden_states": outputs.past_key_values}
        if data.get("labels") is not None:
            values["loss"] = _shifted_loss(outputs.logits, data["labels"])
        return values


class OPTModel(GPT2Model):
    """OPT: the same call."""

    families, legacy_module, default_name = ("opt",), legacy_opt, "opt-125m-en"


class T5Model(OriginalLM):
    """T5: `input_ids` [B, S] and `decoder_input_ids` [B, T] → `logits` [B, T, V]."""

    families, legacy_module, default_name = ("t5", "mt5"), legacy_t5, "T5-base-ch"
    task_name = "seq2seq"

    def _hold(self, inner: Any) -> None:
        super()._hold(inner)
        if not getattr(inner.config, "scale_decoder_outputs", True):
            self._untie()

    def _untie(self) -> None:
        """An output layer of its own, as the original has it; transformers ties the two of a new model."""
        head = self.flagai_model.lm_head
        if head.weight is self.flagai_model.shared.weight:
            head.weight = nn.Parameter(head.weight.detach().clone())

    def _take(self, state: dict[str, Tensor], *, strict: bool, where: str) -> None:
        self._untie()
        self.flagai_model.config.scale_decoder_outputs = False
        super()._take(state, strict=strict, where=where)

    def forward(self, **data: Any) -> dict[str, Any]:
        """As the original: masks only where they are given; `labels` [B, T] of -100 do not count."""
        names = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask", "encoder_outputs")
        names = (*names, "past_key_values", "use_cache", "output_hidden_states", "labels")
        inputs = {name: data[name] for name in names if data.get(name) is not None}
        if "labels" in inputs:
            inputs["labels"] = inputs["labels"].contiguous()
        outputs = self.flagai_model(**inputs)
        return {
            "loss": outputs.loss,
            "logits": outputs.logits,
            "past_key_values": outputs.past_key_values,
            "decoder_hidden_states": outputs.decoder_hidden_states,
            "encoder_last_hidden_state": outputs.encoder_last_hidden_state,
            "encoder_hidden_states": outputs.encoder_hidden_states,
        }


_SPEC = HeadSpec(body="generation", num_labels=0)


def _is_copy(name: str) -> bool:
    """T5 holds its word embedding under three names."""
    return name.endswith("embed_tokens.weight") and not name.startswith("model.")


def _shifted_loss(logits: Tensor, labels: Tensor) -> Tensor:
    wanted = labels[:, 1:].masked_fill(labels[:, 1:] == 0, _IGNORED)
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), wanted.flatten(), ignore_index=_IGNORED)
