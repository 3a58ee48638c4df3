"""The original's Trainer: its arguments and datasets on the one training loop. Knows no model family.

`forward_step` is the hook to override. An iteration is an optimizer step; a batch of the loop is `batch_size` times
`gradient_accumulation_steps` examples, and its loss the mean over all of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch

from flagai._compat._adapters import batches, several
from flagai._compat._adapters.bert import OriginalBert
from flagai._compat._adapters.logs import log_line
from flagai._compat._adapters.measuring import measure, save_best
from flagai._compat._adapters.run import Run
from flagai.config import TrainConfig
from flagai.errors import ConfigError, ModelError, unknown_name

_OPTIMIZERS = ("adam", "adamw")
_OTHER_OPTIMIZERS = ("adafactor", "lion", "adan", "lamb")
_NEVER = 10**12


class Trainer:
    """The original's constructor; see docs/en/compat.md for what each argument means here.

    Raises:
        ConfigError: an `env_type`, `optimizer_type` or `load_type` that this release does not have.
    """

    not_called: ClassVar[frozenset[str]] = frozenset(
        {
            "get_dataloader",
            "initialize_distributed",
            "train_step_pytorch",
            "train_step_pytorchDDP",
            "train_step_deepspeed",
        }
    )
    """hooks of the original that nothing here would call"""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if unused := sorted(cls.not_called & set(vars(cls))):
            raise ConfigError(
                f"{cls.__name__} overrides {', '.join(unused)}, which is never called",
                where="flagai.trainer.Trainer",
                expected="an override of forward_step only",
                fix="hand a DataLoader or an optimizer to train(), or use flagai.Trainer with a Task",
            )

    def __init__(
        self,
        timers: Any = None,
        env_type: str = "pytorch",
        pytorch_device: str = "cpu",
        experiment_name: str = "glm_large",
        batch_size: int = 1,
        gradient_accumulation_steps: int = 1,
        weight_decay: float = 0.1,
        lr: float = 1e-3,
        warm_up: float = 0.1,
        epochs: int = 0,
        save_interval: int = 1000,
        eval_interval: int = 100,
        log_interval: int = 100,
        seed: int = 1234,
        fp16: bool = False,
        clip_grad: float = 1.0,
        checkpoint_activations: bool = False,
        save_dir: str | None = "checkpoints",
        save_best: Callable[[float, dict[str, float]], float] = save_best,
        save_optim: bool = False,
        save_rng: bool = False,
        load_dir: str | None = None,
        load_type: str = "latest",
        load_optim: bool = False,
        load_rng: bool = False,
        tensorboard_dir: str = "tensorboard_summary",
        deepspeed_activation_checkpointing: bool = False,
        num_checkpoints: int = 1,
        master_ip: str = "localhost",
        master_port: int = 17750,
        num_nodes: int = 1,
        num_gpus: int = 1,
        hostfile: str | None = None,
        deepspeed_config: str | None = None,
        model_parallel_size: int = 1,
        training_script: str = "train.py",
        tokenizer: Any = None,
        optimizer_type: str = "adam",
        extra_args: Any = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        for name, value in given.items():
            setattr(self, name, value)
        _check(optimizer_type, load_type)
        self.parallel = several.begin(self)
        self.iteration = 0
        """optimizer steps done, also those of a checkpoint that was loaded"""
        self._evaluation: dict[str, Any] = {}
        self._trained: Run | None = None

    def forward_step(self, data: dict[str, Any], model: Any, mems: Any) -> dict[str, Any]:
        """Run the model on one batch; override it for models with other arguments.

        Returns:
            a dict with `loss` (mean over the batch), `logits` and `hidden_states`.
        """
        outputs = model(**_arguments(data, model, mems))
        if not hasattr(outputs, "get"):
            raise ModelError(
                f"{type(model).__name__} returned a {type(outputs).__name__}",
                where="Trainer.forward_step",
                expected="a dict with loss and logits",
                fix="override forward_step(self, data, model, mems)",
            )
        return {name: outputs.get(name) for name in ("loss", "logits", "hidden_states")}

    def train(
        self,
        model: Any = None,
        optimizer: Any = None,
        lr_scheduler: Any = None,
        train_dataset: Any = None,
        valid_dataset: Any = None,
        metric_methods: list[Any] = [],  # noqa: B006 (the original's default; it is never changed)
        collate_fn: Any = None,
        find_unused_parameters: bool = True,
    ) -> None:
        """Train `model` in place, evaluate it every `eval_interval` steps, write checkpoints to `save_dir`.

        Args:
            optimizer: default is AdamW with `lr` and `weight_decay`.
            lr_scheduler: stepped once an optimizer step; default rises over `warm_up` of the steps, then falls to 0.
            train_dataset, valid_dataset: a map-style Dataset, or a DataLoader over one.
            metric_methods: a list of [name, function(predictions, labels, meta=…)].
        """
        if model is None:
            raise ConfigError("train() got no model", where="Trainer.train", expected="a torch module")
        if self.epochs and train_dataset is None:
            raise ConfigError("train() got no train_dataset", where="Trainer.train", expected="a Dataset, a DataLoader")
        self._seed()
        if self.checkpoint_activations and hasattr(model, "gradient_checkpointing_enable"):
            model.gradient_checkpointing_enable()
        self._evaluation = {"source": valid_dataset, "metrics": metric_methods, "collate_fn": collate_fn}
        several.check_optimizer(self, optimizer)
        run = self._trained = Run(self, model, train_dataset, valid_dataset, metric_methods, collate_fn)
        run.train(optimizer, lr_scheduler)
        self.iteration = run.state.step

    def evaluate(
        self, data_loader: Any = None, model: Any = None, forward_step_func: Any = None, verbose: bool = False
    ) -> dict[str, float]:
        """{metric: value, "loss": mean}, by the metrics and the collate function of the last `train`.

        Args:
            data_loader: a Dataset or a DataLoader; default is the last `valid_dataset`.
            forward_step_func: instead of `forward_step`.
        """
        source = data_loader if data_loader is not None else self._evaluation.get("source")
        if source is None or model is None:
            raise ConfigError(
                "evaluate() got no data or no model", where="Trainer.evaluate", expected="evaluate(data_loader, model)"
            )
        step = forward_step_func or self.forward_step
        if self._trained is not None and self._trained.model is model:
            strategy = self._trained.with_step(step)  # the model may lie on several processes since
        else:
            strategy = several.strategy_of(self)
            strategy.place(batches.Forward(model, step))
        return measure(
            strategy,
            source,
            batch_size=self.batch_size,
            collate_fn=self._evaluation.get("collate_fn"),
            metrics=self._evaluation.get("metrics", ()),
        )

    def evaluate_and_print_results(
        self,
        prefix: str | None = None,
        forward_step_func: Any = None,
        data_loader: Any = None,
        model: Any = None,
        verbose: bool = False,
    ) -> dict[str, float]:
        """`evaluate`, with the result in the log."""
        values = self.evaluate(data_loader, model, forward_step_func, verbose)
        log_line(f"{prefix or 'evaluation'}: " + "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
        return values

    def set_seed(self, seed: int = 1234) -> None:
        """Seed Python, NumPy and torch."""
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)

    def _seed(self) -> None:
        if self.seed is not None:
            self.set_seed(self.seed)

    def train_config(self, *, own_schedule: bool) -> TrainConfig:
        """The arguments in today's words."""
        return TrainConfig(
            epochs=self.epochs,
            batch_size=self.batch_size * self.gradient_accumulation_steps,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            learning_rate=self.lr,
            weight_decay=self.weight_decay,
            warmup_ratio=0.0 if own_schedule else self.warm_up,
            scheduler="constant" if own_schedule else "linear",
            max_grad_norm=self.clip_grad or None,
            precision="fp16" if self.fp16 else "fp32",
            seed=self.seed or 0,
            eval_steps=self.eval_interval or _NEVER,
            save_steps=self.save_interval or _NEVER,
            logging_steps=self.log_interval or _NEVER,
            device=str(self.pytorch_device),
            packing=False,
        )

    # The arguments, set by the constructor.
    env_type: str
    model_parallel_size: int
    num_nodes: int
    num_gpus: int
    master_ip: str
    master_port: int
    hostfile: str | None
    deepspeed_config: str | None
    training_script: str
    pytorch_device: Any
    batch_size: int
    gradient_accumulation_steps: int
    weight_decay: float
    lr: float
    warm_up: float
    epochs: int
    save_interval: int
    eval_interval: int
    log_interval: int
    seed: int
    fp16: bool
    clip_grad: float
    checkpoint_activations: bool
    save_dir: str | None
    save_best: Callable[[float, dict[str, float]], float]
    save_optim: bool
    save_rng: bool
    load_dir: str | None
    load_type: Any
    load_optim: bool
    load_rng: bool
    tensorboard_dir: str
    tokenizer: Any


def _check(optimizer_type: str, load_type: str) -> None:
    if optimizer_type in _OTHER_OPTIMIZERS:
        raise ConfigError(
            f"optimizer_type {optimizer_type!r} is not part of this release",
            where="flagai.trainer.Trainer",
            expected=f"one of: {', '.join(_OPTIMIZERS)} (both are AdamW)",
            fix="build the optimizer yourself and hand it to train(optimizer=…)",
        )
    if optimizer_type not in _OPTIMIZERS:
        raise unknown_name("optimizer_type", optimizer_type, _OPTIMIZERS, where="flagai.trainer.Trainer")
    if load_type not in ("latest", "best"):
        raise unknown_name("load_type", load_type, ["latest", "best"], where="flagai.trainer.Trainer")


def _arguments(data: dict[str, Any], model: Any, mems: Any) -> dict[str, Any]:
    """The batch as the model takes it: Hugging Face's names for its models, else the original's."""
    from transformers import PreTrainedModel

    if isinstance(model, OriginalBert) or not isinstance(model, PreTrainedModel):
        return {**data, "mems": mems}
    renamed = {("token_type_ids" if name == "segment_ids" else name): value for name, value in data.items()}
    mask = renamed.pop("padding_mask", None)
    if "attention_mask" not in renamed and "input_ids" in renamed:
        pad = getattr(model.config, "pad_token_id", None) or 0
        renamed["attention_mask"] = (renamed["input_ids"] != pad).long() if mask is None else mask.long()
    if mask is not None and renamed.get("labels") is not None and renamed["labels"].shape == mask.shape:
        renamed["labels"] = renamed["labels"].masked_fill(~mask.bool(), -100)
    return renamed
