"""DeepSpeed's ZeRO 1, 2 and 3 behind the verbs of a strategy. Knows no task and no model family.

Source: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models"
(arXiv:1910.02054), section 5. DeepSpeed partitions and exchanges; counts, the norm, clipping and the loss scale are
those of the other strategies, and the optimizer is the one that the caller brings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from flagai.config_deepspeed import engine_settings
from flagai.errors import ConfigError
from flagai.models.dropout import quicken
from flagai.models.kept_logits import call_model
from flagai.models.plans import plan_of
from flagai.parallel import streams, world, zero_engine
from flagai.parallel.axes import Sizes, axes_of
from flagai.parallel.even import Weighted, even
from flagai.parallel.memory import bound_kernel_caches
from flagai.parallel.native import inputs_of
from flagai.parallel.parts import Entries, Part, Read, saved_names
from flagai.parallel.placing import check_buffers, local_device, same_everywhere
from flagai.parallel.precision import DTYPES, choose_device, resolve_precision
from flagai.parallel.recompute import recompute_layers
from flagai.parallel.scale import LossScale
from flagai.parallel.strategy import Answer, Loss, Strategy
from flagai.parallel.zero_engine import Engine
from flagai.parallel.zero_optimizer import Flat
from flagai.parallel.zero_state import ZeroState
from flagai.parallel.zero_usage import Usage, reached

if TYPE_CHECKING:
    from flagai.config import ParallelConfig


def from_config(config: ParallelConfig, *, device: str = "auto", precision: str = "fp32") -> Zero:
    """The strategy of a `parallel` section whose strategy is zero1, zero2 or zero3.

    Raises:
        ConfigError: what DeepSpeed cannot do here, or a deepspeed.json that says something else.
    """
    for key in ("tensor", "pipeline", "context"):
        if getattr(config, key) > 1:
            raise ConfigError(
                f"parallel.{key} is {getattr(config, key)} beside strategy {config.strategy}",
                where=f"parallel.{key}",
                expected="1: ZeRO divides optimizer, gradients and parameters, but no products, layers or texts",
                fix=f"take strategy ddp or fsdp, which stand beside parallel.{key}",
            )
    return Zero(
        int(config.strategy.removeprefix("zero")),
        device=device,
        precision=precision,
        offload=config.offload,
        recompute=config.recompute,
        reduce_dtype=config.reduce_dtype,
        file=config.deepspeed,
    )


class Zero(Strategy):
    """Copies of a model whose optimizer (1), gradients (2) and parameters (3) are divided between them.

    Args:
        stage: 1, 2 or 3; each divides what the one before does, too.
        device: "auto", "cpu" or "cuda".
        precision: "fp32"; "bf16" and "fp16": the weights themselves, beside divided ones in fp32.
        offload: the optimizer (with stage 3 the parameters, too) lives in the CPU's memory.
        recompute: compute the activations of each layer again in backward, instead of keeping them.
        reduce_dtype: "fp32" or "bf16", in which gradients are summed; None: that of the weights.
        file: a deepspeed.json.

    Raises:
        ConfigError: fp16 on a CPU, or a file that says something else than the other arguments.
    """

    takes_meta = True

    def __init__(
        self,
        stage: int,
        *,
        device: str = "auto",
        precision: str = "fp32",
        offload: bool = False,
        recompute: bool = False,
        reduce_dtype: str | None = None,
        file: str | None = None,
    ) -> None:
        chosen = choose_device(device)
        self.stage, self._recompute, self.precision = stage, recompute, resolve_precision(precision, chosen)
        if self.precision == "fp16" and chosen.type == "cpu":
            raise ConfigError(
                "DeepSpeed does not train in fp16 on a CPU",
                where="train.precision",
                expected="fp32 or bf16",
                fix="set train.precision=bf16, or take strategy ddp",
            )
        self._settings = engine_settings(
            file, stage=stage, precision=self.precision, offload=offload, reduce_dtype=reduce_dtype
        )
        self.device = local_device(chosen)
        if self.device.type == "cpu":
            bound_kernel_caches()
        zero_engine.load(self.device)
        self.axes = axes_of(Sizes(replicate=world.open_world(self.device)), self.device)
        self._scale = LossScale(enabled=self.precision == "fp16")
        self.skips_overflow = self._scale.enabled
        self._model: nn.Module = nn.Identity()
        self._engine: Engine | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._count, self._divisor, self._used = 1.0, 1.0, set[str]()

    @property
    def model(self) -> nn.Module:
        return self._model

    def place(self, model: nn.Module) -> nn.Module:
        self.close()
        check_buffers(model)
        same_everywhere(model, self.device)
        if self._recompute:
            recompute_layers(model, plan_of(model))
        self._state = ZeroState(model, saved_names(model), self.stage, exact=self.precision == "fp32")
        zero_engine.place(model, self._settings, self.device, DTYPES[self.precision])
        self._model = model
        streams.begin_own(self.axes)
        if self.device.type == "cpu":
            quicken(model)
        return model

    def optimizer(self, factory: Callable[[nn.Module], torch.optim.Optimizer]) -> torch.optim.Optimizer:
        assert not isinstance(self._model, nn.Identity), "place() comes before optimizer()"
        self.close()
        with zero_engine.shapes_shown(self._model):
            self._optimizer = factory(self._model)
            flat = Flat(self._optimizer)
        self._engine = Engine(self._model, flat, self._settings, self.device)
        self._state.begin(self._engine, flat)
        trained = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        self._usage = Usage(trained, self.device)
        return self._optimizer

    def data_axis(self) -> tuple[int, int]:
        return self.axes.data_axis

    def accumulate(self, micro_batches: Iterable[Mapping[str, Any]], loss: Loss) -> tuple[float, float]:
        engine = self._ready()
        self._model.train()
        weighted = self._weighted(micro_batches)
        unit, sums = self._unit(weighted), [0.0, 0.0]
        engine.begin()
        self._usage.begin()
        with engine.at_work(), engine.together() if self.stage == 1 else nullcontext():
            for i, (batch, weight) in enumerate(weighted):
                scored, found = self._scored(engine, self._to_device(batch), loss, weight * self._scale.value / unit)
                sums = [total + weight * part for total, part in zip(sums, found, strict=True)]
                engine.backward(scored, last=i == len(weighted) - 1)
            if self.stage == 1:
                self._usage.note(engine.with_gradient())
            self._used = engine.used = self._usage.all_together()
            if self.stage == 1:
                engine.add_missing(self._used)
        both = self.reduce(sums)
        self._count = both[1] / unit
        return both[0], both[1]

    def _weighted(self, micro_batches: Iterable[Mapping[str, Any]]) -> Weighted:
        """Stage 1 meets once a step; the others in every backward, so that all must have equally many."""
        batches = list(micro_batches)
        if self.stage == 1 or self.axes.data is None:
            return [(batch, 1.0) for batch in batches]
        return even(batches, self.axes.data, self.device)

    def _scored(
        self, engine: Engine, batch: Mapping[str, Tensor], loss: Loss, factor: float
    ) -> tuple[Tensor, tuple[float, float]]:
        """The loss for backward, and what it is a sum of."""
        found = [0.0, 0.0]

        def compute() -> Tensor:
            part, count = loss(call_model(engine.called, inputs_of(batch, self._model)), batch)
            found[:] = part.item(), count.item()
            return part * factor

        if self.stage == 2:
            scored = self._usage.in_order(compute)
        else:
            scored = compute()
            if self.stage == 3:  # modules meet in forward: all processes use the same ones, or wait for ever
                self._usage.note(reached(scored))
        return scored, (found[0], found[1])

    def clip(self, max_norm: float | None) -> float:
        count = (self._count or 1.0) * self._scale.value
        squares = torch.zeros((), dtype=torch.float64, device=self.device)
        if self._used:
            for gradient in self._ready().gradients():
                squares += torch.linalg.vector_norm(gradient, dtype=torch.float32).double().square().to(self.device)
        # DeepSpeed leaves the mean over processes where a sum is wanted.
        norm = math.sqrt(world.total(squares).item()) * self.axes.sizes.replicate / count
        factor = 1 / count
        if max_norm is not None and norm > max_norm:
            factor *= max_norm / (norm + 1e-6)
        self._norm, self._divisor = norm, 1 / (factor * self.axes.sizes.replicate)
        return norm

    def step(self, learning_rates: Sequence[float]) -> None:
        engine = self._ready()
        for group, rate in zip(engine.flat.inner.param_groups, learning_rates, strict=True):
            group["lr"] = rate
        if self._used and self._scale.update(self._norm):
            engine.step(self._divisor)
        else:
            engine.drop()

    def evaluate(
        self, batch: Mapping[str, Any], loss: Loss | None = None, answer: Answer | None = None
    ) -> tuple[Mapping[str, Any], tuple[float, float] | None]:
        """As `Strategy` says; every process calls it with the same batch and gets the same answers."""
        self._model.eval()
        moved = self._to_device(batch)
        with torch.no_grad(), zero_engine.readable(self._model, self._engine, whole=answer is not None) as called:
            outputs = call_model(called, inputs_of(moved, self._model)) if loss or answer is None else {}
            answers = outputs if answer is None else answer(self._model, moved)
            if loss is None:
                return answers, None
            part, count = loss(outputs, moved)
        return answers, (part.item(), count.item())

    def reduce(self, scalars: Sequence[float]) -> list[float]:
        return world.total(torch.tensor(list(scalars), dtype=torch.float64, device=self.device)).tolist()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        return self._state.weights()

    def parts(self) -> Iterator[Part]:
        return self._state.parts()

    def fill(self, read: Read, names: Collection[str] | None = None) -> None:
        self._state.fill(read, names)

    def state(self) -> dict[str, Any]:
        return {"random": streams.collect(self.device), "scaler": self._scale.state()}

    def load_state(self, state: Mapping[str, Any], entries: Entries, read: Read) -> None:
        self._state.fill_moments(entries, read)
        streams.restore(state["random"], self.axes)
        self._scale.load_state(state["scaler"])

    def barrier(self, name: str) -> None:
        world.barrier(name)

    def close(self) -> None:
        """Give the model up; what DeepSpeed put into it and into torch is taken out."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    def _unit(self, weighted: Weighted) -> float:
        """With a loss scale the sum of losses is kept near a mean, else it would overflow at the first scale."""
        if not self._scale.enabled:
            return 1.0
        size = torch.tensor([float(torch.as_tensor(b["input_ids"]).numel()) for b, _ in weighted[:1]] or [1.0])
        size = size.to(self.device)
        dist.all_reduce(size, dist.ReduceOp.MAX)
        return max(1.0, size.item())

    def _ready(self) -> Engine:
        assert self._engine is not None, "optimizer() comes before the first step"
        return self._engine

    def _to_device(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return {key: torch.as_tensor(value).to(self.device, non_blocking=True) for key, value in batch.items()}
