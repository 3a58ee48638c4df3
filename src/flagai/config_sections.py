"""The sections of a run.yaml, each key described and checked: model, data, train.

It knows neither where the settings come from nor which tasks and models exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from flagai.config_base import Section
from flagai.errors import ConfigError

DEFAULT_EVAL_FRACTION: Final = 0.1
"""share of the training rows that is held out when neither `data.eval` nor `data.eval_fraction` is set"""


class LoraConfig(Section):
    """Low-rank adapters: train small matrices beside the frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

    r: int = Field(default=8, gt=0, description="rank of the adapters")
    alpha: float = Field(default=16, gt=0, description="scale: adapters are added with the factor alpha / r")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout in front of the adapters")
    target_modules: tuple[str, ...] | None = Field(
        default=None,
        description="names of the linear layers that get adapters; null: the attention layers of the model family",
    )


class ModelConfig(Section):
    """Which pretrained weights to start from."""

    name: str | None = Field(
        default=None, description="a name of `flagai models`, a folder or a hub id such as org/name"
    )
    revision: str | None = Field(default=None, description="branch, tag or commit on the hub; null: its default branch")
    source: Literal["auto", "huggingface", "modelscope"] = Field(
        default="auto", description="hub to ask; auto: this machine first, then Hugging Face, then ModelScope"
    )
    tokenizer: str | None = Field(
        default=None, description="a folder or hub id to take the tokenizer from; null: the model's"
    )
    config: dict[str, Any] | None = Field(
        default=None, description="Hugging Face configuration (with model_type) of a model to start from random weights"
    )
    pooling: Literal["mean", "cls"] | None = Field(
        default=None, description="how token vectors become a text vector; null: what the model says, else mean"
    )
    lora: LoraConfig | None = Field(
        default=None, description="train low-rank adapters instead of all weights; null: all weights"
    )

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.name and self.config is not None:
            raise ConfigError(
                "model.name and model.config are both set",
                expected="a name (pretrained weights) or a config (random weights)",
                fix="remove one of them",
                where="model",
            )
        if self.name is None and self.config is None and self != type(self).model_construct():
            raise ConfigError(
                "model has neither a name nor a config",
                expected="model.name, or model.config for random weights",
                fix="set model.name, for instance all-MiniLM-L6-v2",
                where="model",
            )
        return self


class ColumnsConfig(Section):
    """Which column of the file is which; null: found by its name."""

    text: str | None = Field(default=None, description="column of the text")
    text_pair: str | None = Field(default=None, description="column of the second text")
    label: str | None = Field(default=None, description="column of the label, the labels, the score or the entities")
    prompt: str | None = Field(
        default=None, description="column of what stands before the text and is read, not learned (pre-training)"
    )


class AuditConfig(Section):
    """What the check of the data before a training does with what it finds."""

    fail_above: float | None = Field(
        default=None, ge=0, le=1, description="stop if more than this share of rows is damaged; null: report and go on"
    )


class DataConfig(Section):
    """Files of examples. A relative path is looked for beside the run.yaml, then in the current folder."""

    train: str | None = Field(
        default=None, description="file of training rows, or a folder with train, dev and test files"
    )
    mixture: dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        default=None,
        description="instead of train: several corpora or files and their weights, as shares of the samples "
        "(pre-training)",
    )
    eval: str | None = Field(
        default=None, description="file by which the best model is chosen; null: a seeded part of train"
    )
    test: str | None = Field(default=None, description="file that is only measured, once, at the end")
    columns: ColumnsConfig = Field(default=ColumnsConfig(), description="which column is which")
    max_length: int | None = Field(
        default=None,
        ge=8,
        description="most tokens of a text, special tokens counted; longer ones are cut, or windowed by stride. "
        "null: what the model reads, and a longer text is an error unless stride is set",
    )
    max_target_length: int | None = Field(
        default=None,
        ge=2,
        description="most tokens of a target that is written, its end counted; longer ones are cut and counted by the "
        "audit. null: none is cut",
    )
    stride: int | None = Field(
        default=None, ge=0, description="tokens that neighbouring windows of a long text share; null: cut long texts"
    )
    encoding: str | None = Field(
        default=None, description="character encoding of the files, for instance gb18030; null: UTF-8"
    )
    eval_fraction: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="share of train held out where there is no eval; null: 0.1; 0: no evaluation",
    )
    join_documents: bool = Field(
        default=False, description="whether short documents of a corpus share a sample (pre-training)"
    )
    audit: AuditConfig = Field(default=AuditConfig(), description="the check of the data before training")

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.eval is not None and self.eval_fraction is not None:
            raise ConfigError(
                "data.eval and data.eval_fraction are both set",
                expected="one of them: a file, or a share of data.train",
                fix="remove data.eval_fraction",
                where="data",
            )
        if self.mixture is not None and (self.train is not None or not self.mixture):
            raise ConfigError(
                "data.train and data.mixture are both set" if self.mixture else "data.mixture names no corpus",
                expected="one of them: a file or corpus, or several with weights",
                fix="remove data.train" if self.mixture else "name corpora, as in mixture: {a: 2, b: 1}",
                where="data.mixture",
            )
        if self.stride is not None and self.max_length is not None and self.stride >= self.max_length:
            raise ConfigError(
                f"data.stride is {self.stride}, data.max_length {self.max_length}",
                expected="a stride below max_length",
                fix=f"a quarter of it is a good start: {self.max_length // 4}",
                where="data.stride",
            )
        return self

    @property
    def holdout(self) -> float:
        """Share of the training rows to hold out, 0 where eval data is named."""
        if self.eval is not None:
            return 0.0
        return DEFAULT_EVAL_FRACTION if self.eval_fraction is None else self.eval_fraction


class TrainConfig(Section):
    """How long, how fast and how exactly. Batches count one optimizer step over all processes."""

    epochs: int = Field(default=3, gt=0, description="passes over the training data")
    max_steps: int | None = Field(
        default=None, gt=0, description="optimizer steps; if set, it decides instead of epochs"
    )
    batch_size: int | None = Field(
        default=32, gt=0, description="examples of one optimizer step; null: batch_tokens decides"
    )
    batch_tokens: int | None = Field(
        default=None, gt=0, description="tokens of one optimizer step, instead of batch_size"
    )
    gradient_accumulation_steps: int = Field(
        default=1, gt=0, description="parts in which a batch is computed, to save memory"
    )
    eval_written: int | None = Field(
        default=None,
        ge=0,
        description="for tasks that write: of how many eval records, evenly spread, answers are written in the "
        "evaluations of a training; 0: the loss alone is computed; null: of all. What is trained is measured on all",
    )
    learning_rate: float = Field(default=5e-5, gt=0, description="highest learning rate")
    head_learning_rate: float | None = Field(
        default=None, gt=0, description="that of the new head; null: as learning_rate"
    )
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's, not applied to biases and norms")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's memory of gradients")
    adam_beta2: float = Field(
        default=0.999, ge=0, lt=1, description="AdamW's memory of squared gradients; pre-training often takes 0.98"
    )
    adam_epsilon: float = Field(default=1e-8, gt=0, description="AdamW's smallest denominator")
    warmup_ratio: float = Field(
        default=0.1, ge=0, lt=1, description="share of the steps (or of decay_steps) in which the learning rate rises"
    )
    scheduler: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="how the learning rate falls after the warm-up"
    )
    decay_ratio: float = Field(
        default=0.0, ge=0, le=1, description="lowest learning rate, as a share of the highest, at the end of the fall"
    )
    decay_steps: int | None = Field(
        default=None,
        gt=0,
        description="steps in which the learning rate rises and falls; then it stays at its lowest; null: all steps",
    )
    max_grad_norm: float | None = Field(default=1.0, gt=0, description="longest gradient; null: no clipping")
    precision: Literal["fp32", "bf16", "fp16", "auto"] = Field(
        default="fp32", description="number format of forward and backward; auto: bf16 where the machine is fast in it"
    )
    seed: int = Field(
        default=42, ge=0, lt=2**32, description="of the split, the order of examples, new weights and dropout"
    )
    eval_steps: int | None = Field(default=None, gt=0, description="steps between evaluations; null: after each epoch")
    save_steps: int | None = Field(default=None, gt=0, description="steps between checkpoints; null: after each epoch")
    logging_steps: int = Field(default=10, gt=0, description="steps between lines of the log")
    best_metric: str | None = Field(
        default=None, description="metric that chooses the best model; null: the task's own"
    )
    early_stopping: int | None = Field(
        default=None, gt=0, description="stop after so many evaluations without a better one; null: never"
    )
    keep_last: int = Field(default=2, gt=0, description="checkpoints to keep, the newest ones")
    keep_best: int = Field(
        default=0, ge=0, description="checkpoints of the best evaluations to keep besides; each can be continued"
    )
    async_save: bool = Field(
        default=False,
        description="write checkpoints in the background, from a copy in memory, while training goes on",
    )
    num_workers: int = Field(
        default=0, ge=0, description="threads that prepare batches ahead; the order does not depend on it"
    )
    resume: Literal["auto"] | bool = Field(
        default="auto",
        description="auto: continue an unfinished run of the same settings; true: also of other settings; "
        "false: start anew",
    )
    packing: Literal["auto"] | bool = Field(
        default="auto", description="compute no padding; auto: where the model allows it"
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, mps, cuda or cuda:N"
    )
    tensorboard: bool = Field(default=False, description="write TensorBoard events beside log.jsonl")

    @model_validator(mode="before")
    @classmethod
    def _one_batch_rule(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        size, tokens = values.get("batch_size"), values.get("batch_tokens")
        if size is not None and tokens is not None:
            raise ConfigError(
                "train.batch_size and train.batch_tokens are both set",
                expected="one of them: examples or tokens of an optimizer step",
                fix="remove one, or set it to null",
                where="train",
            )
        if tokens is not None:
            return {**values, "batch_size": None}
        if size is None and "batch_size" in values:
            return {key: value for key, value in values.items() if key != "batch_size"}
        return values

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.batch_size is not None and self.batch_size < self.gradient_accumulation_steps:
            raise ConfigError(
                f"train.batch_size {self.batch_size} cannot be cut into "
                f"train.gradient_accumulation_steps {self.gradient_accumulation_steps} parts",
                expected="at least one example a part: batch_size counts the whole optimizer step",
                fix="raise batch_size or lower gradient_accumulation_steps",
                where="train.batch_size",
            )
        return self
