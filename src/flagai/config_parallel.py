"""The section `parallel` of a run.yaml: how many processes share what. It knows no process and no model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from flagai.config_base import Section
from flagai.errors import ConfigError


class ParallelConfig(Section):
    """How the model is spread over processes; those that tensor and pipeline leave over see different examples."""

    strategy: Literal["single", "ddp", "fsdp", "zero1", "zero2", "zero3", "megatron", "bmtrain"] = Field(
        default="single",
        description="single: one process; ddp: copies of the model; fsdp: its parameters in shards; "
        "zero1, zero2, zero3: those of DeepSpeed; megatron: products by Megatron-Core; bmtrain",
    )
    processes: int | None = Field(
        default=None,
        gt=0,
        description="processes that `flagai train` starts here; null: one a GPU, on a CPU as few as the rest needs",
    )
    tensor: int = Field(default=1, gt=0, description="processes that share each matrix product")
    sequence: bool = Field(
        default=False, description="whether those processes share the tokens between the products, too: less memory"
    )
    pipeline: int = Field(default=1, gt=0, description="stages that the layers are cut into")
    schedule: Literal["1f1b", "interleaved", "zero-bubble"] = Field(
        default="1f1b", description="the order of forward and backward on the stages"
    )
    chunks: int = Field(default=2, gt=1, description="interleaved: runs of layers on each process")
    context: int = Field(default=1, gt=0, description="processes that share one long text")
    context_method: Literal["ulysses", "all-gather"] = Field(
        default="all-gather",
        description="ulysses: heads change places with tokens, which needs a head for each process; "
        "all-gather: keys and values of all tokens come to each process",
    )
    shard: int | None = Field(
        default=None,
        gt=0,
        description="fsdp: processes that share one copy of the parameters; null: all of them; fewer: several copies",
    )
    recompute: bool = Field(
        default=False,
        description="compute each layer again in backward: less memory, a third more time",
    )
    offload: bool = Field(default=False, description="keep parameters and optimizer states in the CPU's memory")
    reduce_dtype: Literal["fp32", "bf16"] | None = Field(
        default=None, description="in which gradients are summed over processes; null: that of the parameters"
    )
    deepspeed: str | None = Field(default=None, description="zero1, zero2, zero3: a deepspeed.json of your own")

    @model_validator(mode="after")
    def _check(self) -> ParallelConfig:
        several = {key: getattr(self, key) for key in ("tensor", "pipeline", "context") if getattr(self, key) > 1}
        for key, value in several.items():
            if self.strategy == "single":
                raise ConfigError(
                    f"parallel.{key} is {value}, but the strategy is one process",
                    expected="strategy ddp or fsdp",
                    fix=f"set parallel.strategy=ddp, or take parallel.{key} out",
                    where=f"parallel.{key}",
                )
        if self.pipeline > 1 and self.strategy not in ("ddp", "fsdp", "megatron"):
            raise ConfigError(
                f"parallel.pipeline is {self.pipeline}, but strategy {self.strategy} cuts no model into stages",
                expected="strategy ddp or fsdp",
                fix="set parallel.strategy=ddp, or parallel.pipeline=1",
                where="parallel.pipeline",
            )
        if self.schedule != "1f1b" and self.pipeline == 1:
            raise ConfigError(
                f"parallel.schedule is {self.schedule}, but there is one stage",
                expected="parallel.pipeline above 1",
                fix="set parallel.pipeline, or take parallel.schedule out",
                where="parallel.schedule",
            )
        for key, only in (("shard", ("fsdp",)), ("offload", ("fsdp", "zero1", "zero2", "zero3", "bmtrain"))):
            if getattr(self, key) and self.strategy not in only:
                raise ConfigError(
                    f"parallel.{key} means nothing to strategy {self.strategy}",
                    expected=f"strategy {' or '.join(only)}",
                    fix=f"take parallel.{key} out, or change the strategy",
                    where=f"parallel.{key}",
                )
        if self.sequence and self.tensor == 1:
            raise ConfigError(
                "parallel.sequence is set, but no products are shared",
                expected="parallel.tensor above 1",
                fix="set parallel.tensor, or take parallel.sequence out",
                where="parallel.sequence",
            )
        return self
